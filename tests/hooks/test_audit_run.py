"""The record of the run that computed scores: when, from what, by which command."""

from types import SimpleNamespace

import mlflow
import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from sourcetrace.datasets.optional import OptionalJSONDataset
from sourcetrace.hooks.audit_run import AuditRunHook
from sourcetrace.namespace import AuditNames
from sourcetrace.pipelines.audit import create_audit, create_stage


@pytest.fixture(autouse=True)
def run_of_mlflow(monkeypatch):
    run = SimpleNamespace(info=SimpleNamespace(run_id="run-1"))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)


@pytest.fixture
def catalog(tmp_path):
    return DataCatalog({"audit_run": OptionalJSONDataset(str(tmp_path / "run.json"))})


def run(catalog, pipeline, folder, *, environment=None, scores="digest"):
    hook = AuditRunHook()
    context = SimpleNamespace(project_path=folder, env=environment)
    hook.after_context_created(context=context)
    hook.before_pipeline_run(pipeline=pipeline, catalog=catalog)
    names = AuditNames.of(pipeline)
    for one in pipeline.nodes:
        hook.before_node_run(node=one)
    hook.after_node_run(outputs={names.full("audit_summary"): {"scores_digest": scores}})
    return catalog.load(names.full("audit_run"))


def test_an_audit_says_when_it_was_by_which_environment_and_how_long_it_took(catalog, tmp_path):
    record = run(catalog, create_audit(), tmp_path, environment="mine")
    assert record["scores_digest"] == "digest"
    assert record["environment"] == "mine"
    assert record["run_id"] == "run-1"
    assert record["commit"] == ""
    assert 0 <= record["seconds"] < 60
    assert record["at"].endswith("+00:00")


def test_a_page_that_is_rendered_again_tells_of_the_run_that_scored(catalog, tmp_path, monkeypatch):
    first = run(catalog, create_audit(), tmp_path, environment="mine")
    monkeypatch.setattr(mlflow, "active_run", lambda: None)
    report = create_stage("cleaning_report")
    assert run(catalog, report, tmp_path) == first
    other = run(catalog, report, tmp_path, scores="others")
    assert (other["run_id"], other["environment"], other["seconds"]) == ("", "", None)


def test_a_second_run_on_finished_work_is_not_the_one_that_scored(catalog, tmp_path, monkeypatch):
    first = run(catalog, create_audit(), tmp_path, environment="mine")
    later = SimpleNamespace(info=SimpleNamespace(run_id="run-2"))
    monkeypatch.setattr(mlflow, "active_run", lambda: later)
    assert run(catalog, create_audit(), tmp_path, environment="mine") == first
    assert run(catalog, create_audit(), tmp_path, environment="theirs")["run_id"] == "run-2"
    assert run(catalog, create_audit(), tmp_path, scores="others")["scores_digest"] == "others"


def test_under_a_namespace_the_record_is_the_namespaces(tmp_path):
    entry = OptionalJSONDataset(str(tmp_path / "run.json"))
    catalog = DataCatalog({"churn.audit_run": entry})
    assert run(catalog, create_audit("churn"), tmp_path)["environment"] == ""


def test_without_the_entry_or_an_audit_nothing_is_written(catalog, tmp_path):
    other = Pipeline([node(len, "data", "size")])
    hook = AuditRunHook()
    hook.before_pipeline_run(pipeline=other, catalog=catalog)
    hook.after_node_run(outputs={"size": 3})
    assert catalog.load("audit_run") is None
    hook.before_pipeline_run(pipeline=create_audit(), catalog=DataCatalog({}))
    hook.after_node_run(outputs={"audit_summary": {"scores_digest": "digest"}})
