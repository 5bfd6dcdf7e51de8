"""The comparison's stage: two audits in, and the same again however often the second runs."""

import json
from dataclasses import replace

import polars as pl
import pytest

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.datasets import AuditSnapshotsDataset
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import ComparisonParameters, TaskParameters
from sourcetrace.pipeline_registry import register_pipelines
from sourcetrace.pipelines.comparison.nodes import (
    compare_audits,
    describe_this_audit,
    take_snapshot,
)
from sourcetrace.pipelines.page.nodes import gather_verdict, render_page
from sourcetrace.schemas import AuditComparison, CurvatureSpectra, DecisionLog
from tests.audit.gate.examples import verdict
from tests.reporting.content import page_content

TASK = TaskParameters.model_validate({"class": "a.Task"})
SPECTRA = pl.DataFrame(
    {
        "segment": [1],
        "layer": ["fc"],
        "eigenvalues": [9],
        "trace": [9.0],
        "quantiles": [[1.0] * 9],
    }
)


class Scores(ScoreFiles):
    """Stands in for the files of scores."""

    def __init__(self, digest):
        self.digest = lambda: digest


class Audits:
    """A project in which one audit after the other is run on tables given for it."""

    def __init__(self, folder):
        self.dataset = AuditSnapshotsDataset(str(folder / "snapshots"))

    def run(
        self,
        scores,
        *,
        relabelled=(),
        kept=(),
        suspects=6,
        spectra=SPECTRA,
        model=None,
        outcome=0.2,
        reverse=False,
    ):
        """Run an audit's end; return the table, what it says, its metrics and the page."""
        content = page_content(suspects=suspects, scores_digest=scores)
        review = content.review_list.with_columns(
            given_label=pl.when(pl.col("example_id").is_in(list(relabelled)))
            .then(pl.lit("9"))
            .otherwise("given_label"),
            decision=pl.when(pl.col("example_id").is_in(list(kept))).then(pl.lit("keep")),
        )
        order = review.reverse() if reverse else review
        digests = order.select(
            "example_id",
            label="given_label",
            input_digest=pl.concat_str(pl.lit("0" * 22), pl.col("example_id")),
            target_digest=pl.lit(None, pl.String),
        )
        this_audit = describe_this_audit(
            score_files=Scores(scores),
            audit_summary=content.summary.model_dump(mode="json"),
            example_digests=digests,
            review_list=review,
            curvature_spectra=CurvatureSpectra.validate(spectra),
            data_digests={
                "training": {"digest": f"st1-{sorted(relabelled)}"},
                "queries": {"digest": "st1-q"},
            },
            task=TASK,
            registered_model={"name": model, "version": 1} if model else None,
        )
        parameters = ComparisonParameters(class_minimum=10)
        table, summary, metrics = compare_audits(this_audit, self.dataset.load(), parameters)
        table = AuditComparison.validate(table)
        summary = json.loads(json.dumps(summary))
        check = {"metric": "harmful_share", "at_most": 0.1, "severity": "warn"}
        report = verdict(check, harmful_share=outcome).model_copy(update={"scores_digest": scores})
        gate_report = report.model_dump(mode="json")
        page = render_page(
            replace(
                content,
                review_list=review,
                **gather_verdict(gate_report, summary, table, DecisionLog.frame()),
            ),
            *(pl.DataFrame() for _ in range(3)),
            ground_truth=None,
            audit_run=None,
            registered_model={"name": model, "version": 1} if model else None,
            query_section=None,
        )
        self.dataset.save(
            take_snapshot(this_audit, summary, table, gate_report, parameters, {}, page)
        )
        return table, Comparison.from_json(summary), metrics, page


@pytest.fixture
def audits(tmp_path):
    return Audits(tmp_path)


def ids(count):
    return [f"scan-{i:05d}" for i in range(count)]


def test_a_first_audit_says_that_there_is_none_to_compare_with(audits):
    table, found, metrics, page = audits.run("aa")
    assert table.is_empty()
    assert found.previous_at is None
    assert metrics == {}
    assert "is kept to compare this one with" in page


def test_corrected_labels_resolve_their_suspects(audits):
    audits.run("aa")
    table, found, metrics, page = audits.run("bb", relabelled=ids(3), suspects=8)
    # The fixture suspects the first by rank; so the corrected ones persist, the next two are new.
    assert table.filter(change="relabelled")["example_id"].to_list() == ids(3)
    assert (found.suspects.new, found.suspects.persisting, found.suspects.resolved) == (2, 6, 0)
    assert found.data.relabelled == 3
    assert found.data.training_same is False
    assert found.data.queries_same is True
    assert found.scores.examples == 37
    assert found.scores.rank_correlation == 1
    assert metrics["relabelled_examples"] == {"value": 3.0, "step": 0}
    assert "2 new suspects, 0 resolved, 6 persisting" in page
    _, found, metrics, page = audits.run("cc", relabelled=ids(3), suspects=4)
    assert (found.suspects.resolved, found.suspects.dropped_out) == (0, 4)
    assert metrics["dropped_out_suspects"]["value"] == 4
    assert "4 no longer among the suspects though nothing was done" in page


def test_what_somebody_decided_to_keep_is_resolved_and_says_so(audits):
    audits.run("aa")
    table, found, _, page = audits.run("bb", kept=ids(2))
    assert found.suspects.resolved_by == {"kept": 2}
    assert table.filter(status="resolved")["decision"].to_list() == ["keep"] * 2
    assert "2 resolved (2 decided to be kept), 4 persisting" in page


def test_an_audit_that_runs_again_writes_the_same_page_and_is_kept_once(audits):
    audits.run("aa")
    *_, first = audits.run("bb", relabelled=ids(2))
    *_, again = audits.run("bb", relabelled=ids(2))
    assert again == first
    assert len(audits.dataset.load().history(("a.Task", None))) == 2


def test_a_first_audit_that_runs_again_is_not_compared_with_itself(audits):
    *_, first = audits.run("aa")
    *_, again = audits.run("aa")
    assert again == first


def test_another_order_of_the_training_data_is_said_and_nothing_else(audits):
    audits.run("aa")
    _, found, _, page = audits.run("bb", reverse=True)
    assert found.data.reordered == 40
    changes = (found.data.added, found.data.removed, found.data.relabelled, found.data.edited)
    assert changes == (0, 0, 0, 0)
    assert (found.suspects.new, found.suspects.resolved) == (0, 0)
    assert "Training data: 40 at another place." in page


def test_suspects_are_counted_over_the_audits_in_a_row(audits):
    for scores in ("aa", "bb", "bb", "cc"):
        table, *_ = audits.run(scores)
    assert set(table.filter(status="persisting")["audits_suspected"]) == {3}


def test_another_model_is_another_history(audits):
    audits.run("aa", model="churn")
    _, found, _, _ = audits.run("bb", model="fraud")
    assert found.previous_at is None
    _, found, _, _ = audits.run("cc", model="churn")
    assert found.previous_scores_digest == "aa"


def test_the_curvature_is_compared_with_what_was_kept_of_it(audits):
    audits.run("aa")
    moved = SPECTRA.with_columns(
        trace=pl.lit(90.0), quantiles=pl.lit([10.0] * 9, dtype=pl.List(pl.Float64))
    )
    _, found, metrics, page = audits.run("bb", spectra=moved)
    (layer,) = found.curvature.layers
    assert (layer.trace_ratio, layer.distance, layer.is_big) == (10.0, 1.0, True)
    assert metrics["curvature_distance"]["value"] == 1.0
    assert "layer fc in segment 1 changed most" in page
    _, found, metrics, _ = audits.run("cc", spectra=SPECTRA.clear())
    assert found.curvature.layers == ()
    assert "curvature_distance" not in metrics


def test_the_trends_have_the_gates_outcomes(audits):
    audits.run("aa", outcome=0.05)
    _, found, _, page = audits.run("bb", outcome=0.3)
    assert [one.outcome for one in found.earlier] == ["pass"]
    assert 'id="trend-shares"' in page
    assert page.index("this audit") < page.index("How to read these numbers")


@pytest.mark.parametrize("name", ["audit", "gate", "verification", "__default__"])
def test_an_audit_is_kept_after_everything_that_is_written_of_it(name):
    pipeline = register_pipelines()[name]
    before = {node.name for node in pipeline.to_nodes("take_snapshot").nodes}
    assert {"judge_audit", "state_result", "render_page"} <= before


def test_a_review_list_of_other_scores_is_not_compared_and_not_judged():
    tables = dict.fromkeys(("example_digests", "review_list", "curvature_spectra", "data_digests"))
    for summary in ({"scores_digest": "bb"}, {}):
        with pytest.raises(InputError, match="Run `kedro run --pipelines cleaning_report` first"):
            describe_this_audit(Scores("aa"), summary, **tables, task=TASK, registered_model=None)
    # The gate waits for it.
    for name in ("gate", "verification"):
        before = register_pipelines()[name].to_nodes("judge_audit").nodes
        assert "describe_this_audit" in {node.name for node in before}
