"""The gate's stage: the verdict is last, and written before it is enforced."""

import polars as pl
import pytest
import yaml

from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.gate.report import GateFailed, GateReport
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    AttributionParameters,
    GateParameters,
    GradientParameters,
    ReportParameters,
    SegmentParameters,
)
from sourcetrace.pipeline_registry import register_pipelines
from sourcetrace.pipelines.gate.nodes import (
    collect_parameters,
    enforce_gate,
    judge_audit,
    measure,
    read_baseline,
    state_result,
)
from sourcetrace.schemas import VerificationSummary
from tests import REPOSITORY
from tests.audit.comparison.examples import first_audit, second_audit
from tests.reporting.content import page_content, query_signals, verification

PIPELINES = register_pipelines()
PARAMETERS = REPOSITORY / "conf/base/parameters_gate.yml"
DIGEST = "abc"


@pytest.mark.parametrize("name", ["audit", "gate", "verification", "__default__"])
def test_nothing_is_left_to_do_when_the_gate_is_enforced(name):
    pipeline = PIPELINES[name]
    assert pipeline.nodes[-1].name == "enforce_gate"
    # Not by luck of the order: it waits for every other node.
    before = {node.name for node in pipeline.to_nodes("enforce_gate").nodes}
    assert {node.name for node in pipeline.nodes} - before == set()


@pytest.mark.parametrize("name", ["audit", "__default__", "verification"])
def test_a_wrong_baseline_is_found_before_anything_expensive(name):
    first, *_ = PIPELINES[name].grouped_nodes
    assert "read_baseline" in {node.name for node in first}


@pytest.mark.parametrize("name", ["cleaning_report", "source_scoring", "demo_evaluation"])
def test_single_stages_are_not_judged(name):
    assert "enforce_gate" not in {node.name for node in PIPELINES[name].nodes}


def no_summary():
    return VerificationSummary.frame()


def judged(gate=None, *, summary=None, baseline=None, comparison=None, run=None, **told):
    gate = gate or GateParameters()
    content = page_content(scores_digest=DIGEST, **told)
    ids = content.review_list["example_id"]
    audit_summary = content.summary.model_dump(mode="json")
    measured = measure(
        audit_summary=audit_summary,
        review_list=content.review_list,
        train_table=pl.DataFrame({"example_id": ids, "source": ["x"] * len(ids)}),
        query_signals=query_signals(),
        checkpoint_manifest=content.checkpoint_manifest,
        verification_summary=no_summary() if summary is None else summary,
        comparison_summary=(comparison or first_audit()).to_json(),
        kept_curvature={},
        gate=gate,
    )
    return judge_audit(measured, audit_summary, read_baseline(baseline, gate), run, gate)


def parameters(**changes):
    base = yaml.safe_load(PARAMETERS.read_text(encoding="utf-8"))["gate"]
    return GateParameters(**{**base, **changes})


def test_the_default_limits_judge_without_a_baseline_or_a_verification():
    report, xml, metrics = judged(parameters())
    report = GateReport.model_validate(report)
    assert report.outcome in {"pass", "warn"}
    assert "no baseline is set (gate.baseline)" in {check.reason for check in report.checks}
    assert xml.count("<testcase") == len(report.checks) == len(parameters().checks)
    assert metrics["attributed_share"] == {"value": 0.75, "step": 0}
    assert "trust_lds" not in metrics


def test_an_approved_verdict_passes_its_own_checks_against_the_baseline():
    earlier, _, _ = judged(parameters())
    report, _, _ = judged(parameters(baseline="p.json"), baseline=earlier)
    relative = [check for check in report["checks"] if "baseline" in check["name"]]
    assert relative
    assert {check["status"] for check in relative} == {"pass"}
    strict = {**earlier, "metrics": {**earlier["metrics"], "mean_query_loss": 1e-6}}
    assert judged(parameters(baseline="p.json"), baseline=strict)[0]["outcome"] == "fail"


def test_a_baseline_that_is_not_there_is_refused_and_none_is_needed():
    with pytest.raises(InputError, match=r"no file p\.json.* cp data/08_reporting/gate\.json p\.j"):
        read_baseline(None, parameters(baseline="p.json"))
    assert read_baseline(None, parameters()) == Baseline()


def test_trust_counts_only_where_these_scores_were_verified():
    mine, other = verification(digest=DIGEST).summary, verification(digest="other").summary
    assert judged(summary=mine)[0]["metrics"]["trust_lds_low"] is not None
    assert judged(summary=other)[0]["metrics"]["trust_lds_low"] is None
    strict = parameters(
        checks=[{"metric": "trust_lds_low", "at_least": 0.999, "severity": "inconclusive"}]
    )
    assert judged(strict, summary=mine)[0]["outcome"] == "inconclusive"


def test_what_changed_since_the_audit_before_can_be_limited_and_is_skipped_in_a_first_audit():
    limits = parameters(
        checks=[
            {"metric": "new_suspect_share", "at_most": 0.1},
            {"metric": "score_rank_correlation", "at_least": 0.95, "severity": "warn"},
        ]
    )
    first, _, _ = judged(limits)
    reasons = {check["reason"] for check in first["checks"]}
    assert reasons == {"there is no earlier audit to compare with"}
    second, _, metrics = judged(limits, comparison=second_audit())
    assert [check["status"] for check in second["checks"]] == ["fail", "warn"]
    assert metrics["new_suspect_share"]["value"] == 12 / 40


@pytest.mark.parametrize("gate", [GateParameters(), parameters()])
def test_a_model_whose_scores_are_all_0_does_not_pass(gate):
    report, _, _ = judged(gate, without_effect=40)
    assert report["outcome"] == "inconclusive"
    assert "the loss has no gradient" in report["checks"][0]["message"]
    assert judged(gate, without_effect=39)[0]["checks"] == judged(gate)[0]["checks"]


def test_the_result_names_suspects_by_id_alone_and_no_argument_of_the_task():
    report, _, _ = judged()
    content = page_content()
    result = state_result(
        gate_report=report,
        audit_summary=content.summary.model_dump(mode="json"),
        review_list=content.review_list,
        checkpoint_manifest=content.checkpoint_manifest,
        data_digests={"training": {"digest": "st1-0", "rows": 40, "columns": {"label": "String"}}},
        verification_summary=no_summary(),
        comparison_summary=second_audit().to_json(),
        audit_parameters=collect_parameters(
            segments=SegmentParameters(),
            gradients=GradientParameters(),
            attribution=AttributionParameters(),
            report=ReportParameters(),
            gate=GateParameters(suspects=2),
        ),
    )
    assert result["task"] == "my_team.tasks.Scans"
    assert set(result["parameters"]) == {
        *("segments", "gradients", "attribution", "report", "gate")
    }
    assert result["suspects"] == content.review_list["example_id"].head(2).to_list()
    assert result["gate"] == report["outcome"]
    assert result["data"] == {"training": {"digest": "st1-0", "rows": 40}}
    assert result["trust"]["status"] == "Not verified"
    assert [c["id"] for c in result["checkpoints"]] == ["step_10", "step_20", "step_30"]
    assert result["comparison"]["resolved_by"] == {"relabelled": 25, "removed": 5}


@pytest.mark.parametrize("severity", ["warn", "inconclusive", "fail"])
def test_only_a_failed_gate_raises(severity):
    gate = GateParameters(
        checks=[{"metric": "harmful_share", "at_most": -1.0, "severity": severity}]
    )
    report, xml, _ = judged(gate)
    if severity == "fail":
        with pytest.raises(GateFailed, match="harmful_share is"):
            enforce_gate(report, xml, {}, "page")
    else:
        assert enforce_gate(report, xml, {}, "page") == report


def test_advice_names_the_environment_of_the_audit():
    run = {"scores_digest": DIGEST, "at": "2026-11-29T10:00:00+00:00", "environment": "mine"}
    report, junit, _ = judged(GateParameters(require_verification=True), run=run)
    command = "kedro run --pipelines verification --env mine"
    assert command in report["checks"][0]["advice"]
    assert command in junit
