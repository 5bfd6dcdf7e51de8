"""Events of OpenLineage: what a run and its nodes say, and what they keep to themselves."""

import json
import logging
import sys
from datetime import datetime
from types import SimpleNamespace
from urllib.parse import urlparse
from uuid import UUID

import mlflow
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import node
from kedro_datasets.polars import EagerPolarsDataset

from sourcetrace import __version__
from sourcetrace.audit.gate.report import GateFailed
from sourcetrace.errors import InputError
from sourcetrace.hooks.openlineage import OpenLineageHook
from sourcetrace.integrations.openlineage import RunEvents
from sourcetrace.pipelines.audit import create_audit
from tests.audit.gate.examples import verdict

AUDIT = create_audit("churn_audit")
INGEST, DIGEST, LIST, LAST = (
    next(one for one in AUDIT.nodes if one.name == f"churn_audit.{name}")
    for name in ("ingest_checkpoints", "check_inputs", "list_for_review", "enforce_gate")
)
MANIFEST = pl.DataFrame(
    {
        "checkpoint_id": ["run/step_10"],
        "sha256": ["0" * 64],
        "step": [10],
        "stage": ["training"],
        "run": [""],
        "optimizer": ["SGD"],
    }
)
DATA = {
    "digest": "st1-1",
    "table": "t",
    "rows": 3,
    "columns": {"example_id": "String", "label": "Int64"},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(
        mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    )
    return tmp_path


@pytest.fixture
def catalog(project):
    tracking = {"openlineage": {"path": "out/events.jsonl", "namespace": "my-team"}}
    review = EagerPolarsDataset(
        file_format="parquet", filepath=str(project / "data/review list.parquet")
    )
    return DataCatalog(
        {
            "params:churn_audit.tracking": MemoryDataset(tracking),
            "churn_audit.review_list": review,
            "churn_audit.checkpoint_manifest": EagerPolarsDataset(
                file_format="parquet", filepath="/elsewhere/manifest.parquet"
            ),
        }
    )


def started(project, catalog):
    hook = OpenLineageHook()
    hook.after_context_created(SimpleNamespace(project_path=project))
    hook.before_pipeline_run(
        run_params={"pipeline_names": ["audit"]}, pipeline=AUDIT, catalog=catalog
    )
    return hook


def run_node(hook, catalog, one, *, inputs=None, outputs=None):
    hook.before_node_run(node=one)
    hook.after_node_run(node=one, inputs=inputs or {}, outputs=outputs or {})


def whole_audit(project, catalog):
    hook = started(project, catalog)
    manifest = {"churn_audit.checkpoint_manifest": MANIFEST}
    parameter = {"params:churn_audit.attribution": "hunter2"}
    run_node(hook, catalog, INGEST, inputs=parameter, outputs=manifest)
    digests = {"churn_audit.data_digests": {"training": DATA, "queries": DATA}}
    run_node(hook, catalog, DIGEST, outputs=digests)
    reviewed = {"churn_audit.review_list": pl.DataFrame({"example_id": ["a secret customer"]})}
    run_node(hook, catalog, LIST, inputs=manifest, outputs=reviewed)
    return hook


def events_of(project):
    lines = (project / "out/events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def names(datasets):
    return [one["name"] for one in datasets]


def test_every_event_has_what_the_format_requires(project, catalog):
    whole_audit(project, catalog).after_pipeline_run()
    events = events_of(project)
    assert len(events) == 2 + 2 * 3
    for event in events:
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert event["producer"] == f"pkg:pypi/sourcetrace@{__version__}"
        UUID(event["run"]["runId"])
        assert event["job"]["namespace"] == "my-team"
        facets = [*event["run"]["facets"].values(), *event["job"]["facets"].values()]
        for one in [*event["inputs"], *event["outputs"]]:
            assert one["namespace"] == "my-team"
            facets += one["facets"].values()
        for facet in [event, *facets]:
            assert urlparse(facet.get("schemaURL") or facet["_schemaURL"]).fragment
            assert urlparse(facet.get("producer") or facet["_producer"]).scheme == "pkg"


def test_a_run_starts_once_and_ends_once_with_its_nodes_as_children(project, catalog):
    whole_audit(project, catalog).after_pipeline_run()
    first, *children, last = events_of(project)
    assert (first["eventType"], last["eventType"]) == ("START", "COMPLETE")
    assert first["run"]["runId"] == last["run"]["runId"]
    assert first["job"]["name"] == "audit"
    parents = [child["run"]["facets"]["parent"] for child in children]
    assert {parent["run"]["runId"] for parent in parents} == {first["run"]["runId"]}
    assert {parent["job"]["name"] for parent in parents} == {"audit"}
    kinds = {}
    for child in children:
        kinds.setdefault((child["run"]["runId"], child["job"]["name"]), []).append(
            child["eventType"]
        )
    assert [name for _, name in kinds] == [f"audit.{one.name}" for one in (INGEST, DIGEST, LIST)]
    assert list(kinds.values()) == [["START", "COMPLETE"]] * 3


def test_the_end_says_what_was_audited_and_what_came_out(project, catalog):
    whole_audit(project, catalog).after_pipeline_run()
    last = events_of(project)[-1]
    training, queries, checkpoint = last["inputs"]
    assert names(last["inputs"])[:2] == ["audited_training_data", "audited_queries"]
    assert training["facets"]["version"]["datasetVersion"] == "st1-1"
    assert training["facets"]["schema"]["fields"][1]["name"] == "label"
    assert queries["facets"]["version"]["datasetVersion"] == "st1-1"
    assert checkpoint["name"] == "checkpoint/run/step_10"
    assert checkpoint["facets"]["version"]["datasetVersion"] == f"sha256:{'0' * 64}"
    (review,) = last["outputs"]
    assert review["name"] == "churn_audit.review_list"
    assert review["facets"]["dataSource"]["uri"] == "file:data/review%20list.parquet"
    facets = last["run"]["facets"]
    assert facets["processing_engine"]["name"] == "Kedro"
    tags = {tag["key"]: tag["value"] for tag in facets["tags"]["tags"]}
    assert tags["mlflow_run_id"] == "abc"
    assert facets["nominalTime"]["nominalStartTime"]


def test_no_row_no_parameter_and_no_place_on_the_machine_is_told(project, catalog):
    whole_audit(project, catalog).after_pipeline_run()
    text = (project / "out/events.jsonl").read_text(encoding="utf-8")
    assert "a secret customer" not in text
    assert "hunter2" not in text
    assert str(project) not in text
    assert "/elsewhere" not in text


def test_a_failing_node_fails_the_run_and_its_error_has_no_credentials(project, catalog):
    hook = started(project, catalog)
    hook.before_node_run(node=INGEST)
    error = RuntimeError("no answer from https://me:hunter2@host/\n  in a stack trace")
    hook.on_node_error(error=error, node=INGEST)
    hook.on_pipeline_error(error=error)
    *_, child, last = events_of(project)
    for event in (child, last):
        assert event["eventType"] == "FAIL"
        message = event["run"]["facets"]["errorMessage"]["message"]
        assert message == "RuntimeError: no answer from https://***@host/"


def test_a_failed_gate_fails_the_run_and_its_results_are_still_outputs(project, catalog):
    hook = whole_audit(project, catalog)
    error = GateFailed(verdict({"metric": "harmful_share", "at_most": 0.1}, harmful_share=1.0))
    hook.before_node_run(node=LAST)
    hook.on_node_error(error=error, node=LAST)
    hook.on_pipeline_error(error=error)
    last = events_of(project)[-1]
    assert last["eventType"] == "FAIL"
    assert "The gate failed" in last["run"]["facets"]["errorMessage"]["message"]
    assert names(last["outputs"]) == ["churn_audit.review_list"]


def test_runs_are_added_to_the_file(project, catalog):
    for _ in range(2):
        started(project, catalog).after_pipeline_run()
    assert [event["eventType"] for event in events_of(project)] == ["START", "COMPLETE"] * 2


def test_without_the_parameter_nothing_is_written(project, catalog):
    catalog["params:churn_audit.tracking"] = MemoryDataset({"openlineage": None})
    whole_audit(project, catalog).after_pipeline_run()
    assert not (project / "out").exists()


def test_a_file_that_cannot_be_written_is_said_once_and_fails_nothing(project, catalog, caplog):
    (project / "out").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        whole_audit(project, catalog).after_pipeline_run()
    assert caplog.text.count("OpenLineage's events end here") == 1


def test_a_transport_that_fails_later_ends_the_events(project, catalog, monkeypatch, caplog):
    hook = started(project, catalog)

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(RunEvents, "end_node", full)
    with caplog.at_level(logging.WARNING):
        run_node(hook, catalog, INGEST)
        run_node(hook, catalog, LIST)
        hook.after_pipeline_run()
    assert caplog.text.count("disk full") == 1


def test_without_the_package_it_says_what_to_install(project, catalog, monkeypatch):
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    monkeypatch.delitem(sys.modules, RunEvents.__module__)
    with pytest.raises(InputError, match=r"pip install 'sourcetrace\[openlineage\]'"):
        started(project, catalog)


@pytest.mark.parametrize("wrong", [{"path": ""}, {"namespace": "x"}, {"path": "a", "url": "b"}])
def test_wrong_parameters_are_refused(project, catalog, wrong):
    catalog["params:churn_audit.tracking"] = MemoryDataset({"openlineage": wrong})
    with pytest.raises(InputError, match=r"tracking: expected .* tracking\.openlineage[.:]"):
        started(project, catalog)


def test_nodes_of_others_are_told_of_as_well(project, catalog):
    hook = started(project, catalog)
    run_node(hook, catalog, node(lambda: 0, None, "own", name="own"), outputs={"own": 0})
    _, _, ended = events_of(project)
    assert ended["job"]["name"] == "audit.own"
    assert names(ended["outputs"]) == ["own"]
