"""What MLflow is told of a run."""

import subprocess

import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_mlflow.io.metrics import MlflowMetricsHistoryDataset
from mlflow.utils.validation import validate_param_and_metric_name

from sourcetrace.hooks.run_record import (
    RunRecordHook,
    SecretsHook,
    _environment_tags,
    _mlflow_name,
    _run_name,
)
from sourcetrace.parameters import AttributionParameters, TaskParameters
from tests.reporting.content import verification


def run_hook(monkeypatch, parameters):
    logged = {}
    monkeypatch.setattr(mlflow, "active_run", object)
    monkeypatch.setattr(mlflow, "log_params", logged.update)
    monkeypatch.setattr(mlflow, "set_tags", lambda tags: None)
    pipeline = Pipeline([node(lambda *_: 0, list(parameters), "out", name="node")])
    catalog = DataCatalog({key: MemoryDataset(value) for key, value in parameters.items()})
    RunRecordHook().before_pipeline_run(pipeline=pipeline, catalog=catalog)
    return logged


def test_parameters_are_logged_one_by_one(monkeypatch):
    logged = run_hook(monkeypatch, {"params:attribution": AttributionParameters(seed=3)})
    assert logged["attribution.seed"] == 3
    assert logged["attribution.method"] == "scaled_source"


@pytest.mark.parametrize("group", ["task", "churn_audit.task"])
@pytest.mark.parametrize("name", ["password", "db_token", "API_KEY", "client_secret", "table"])
def test_a_tasks_arguments_are_logged_by_name_alone(monkeypatch, name, group):
    arguments = {"rows": 7, "store": {name: "hunter2"}, "at": "db://me:hunter2@host"}
    task = TaskParameters.model_validate({"class": "churn.Task", "arguments": arguments})
    logged = run_hook(monkeypatch, {f"params:{group}": task})
    assert logged == {
        f"{group}.class": "churn.Task",
        f"{group}.set_aside": 0.0,
        f"{group}.candidates": None,
        f"{group}.arguments.rows": "***",
        f"{group}.arguments.store.{name}": "***",
        f"{group}.arguments.at": "***",
    }
    assert "hunter2" not in repr(task)


def test_secrets_of_the_command_line_are_hidden_before_anybody_logs_them():
    given = {
        "churn_audit": {"task": {"arguments": {"store": "hunter2"}}},
        "task": {"class": "churn.Task", "arguments": {"store": "hunter2"}},
        "checkpoints": {"path": "s3://me:hunter2@host/run"},
        "attribution": {"seed": 3},
    }
    run_params = {"runtime_params": given, "env": None}
    SecretsHook().before_pipeline_run(run_params=run_params)
    assert "hunter2" not in str(run_params)
    assert run_params["runtime_params"]["attribution"] == {"seed": 3}
    # The parameters themselves are the run's.
    assert given["task"]["arguments"] == {"store": "hunter2"}


def test_the_run_is_tagged_with_the_trust_and_the_scores_it_is_of(monkeypatch):
    tags = {}
    monkeypatch.setattr(mlflow, "active_run", object)
    monkeypatch.setattr(mlflow, "set_tags", tags.update)
    hook = RunRecordHook()
    hook.after_node_run(outputs={"review_list": None})
    assert tags == {}
    hook.after_node_run(
        outputs={
            "audit_summary": {
                "trust": {"status": "Not verified", "text": "nobody did."},
                "scores_digest": "12",
            }
        }
    )
    assert tags == {"audit.trust": "Not verified: nobody did.", "audit.scores": "12"}
    summary = verification(digest="34").summary
    hook.after_node_run(outputs={"verification_summary": summary})
    assert tags["audit.trust"].startswith("Verified: retrained on 30 random halves")
    assert tags["audit.scores"] == "34"


@pytest.mark.parametrize(
    ("model", "verifies", "name"),
    [
        ({"name": "churn", "version": "7"}, False, "churn v7: scaled_source"),
        (
            {"name": "churn", "alias": "best", "version": None},
            True,
            "churn @best: scaled_source, v",
        ),
        (None, False, "Churn in run-3: scaled_source"),
    ],
)
def test_a_run_is_named_for_what_it_audits(model, verifies, name):
    parameters = {
        "tracking": {"registered_model": model},
        "checkpoints": {"path": ["s3://me:hunter2@bucket/run-2", "s3://me:hunter2@bucket/run-3/"]},
        "attribution": {"method": "scaled_source"},
        "task": {"class": "mine.Churn"},
    }
    named = _run_name(parameters, verifies=verifies)
    assert named.startswith(name)
    assert named.endswith("verified") == verifies


def test_a_name_holds_no_password_and_no_signature():
    for path in ("s3://me:hunter2@runs", "https://runs/last.pt?signature=hunter2"):
        parameters = {
            "checkpoints": {"path": path},
            "attribution": {"method": "source"},
            "task": {"class": "mine.Churn"},
        }
        named = _run_name(parameters, verifies=False)
        assert named in {"Churn in runs: source", "Churn in last.pt: source"}


def test_groups_of_parameters_are_not_logged_a_second_time():
    attribution = AttributionParameters()
    inputs = {"params:attribution": attribution, "params:rows": {"at_most": 3}, "table": 1}
    hook = RunRecordHook().before_node_run(inputs)
    next(hook)
    assert set(inputs) == {"params:rows", "table"}
    with pytest.raises(StopIteration):
        hook.send([])
    assert inputs["params:attribution"] is attribution


def test_names_that_mlflow_refuses_are_made_safe(monkeypatch):
    arguments = {"mean@1": 1, "k" * 300: 2}
    task = TaskParameters.model_validate({"class": "churn.Task", "arguments": arguments})
    logged = run_hook(monkeypatch, {"params:task": task})
    assert len(logged) == 5
    assert all(validate_param_and_metric_name(name) for name in logged)
    hook, made = RunRecordHook(), Pipeline([node(lambda: 0, None, "cost_metrics", name="node")])
    monkeypatch.setattr(mlflow, "active_run", lambda: None)
    catalog = DataCatalog({"cost_metrics": MlflowMetricsHistoryDataset(prefix="audit")})
    hook.before_pipeline_run(pipeline=made, catalog=catalog)
    metrics = {"größe(1)": {"value": 1.0, "step": 0}, "work": {"value": 2.0, "step": 0}}
    hook.before_dataset_saved("cost_metrics", metrics)
    assert all(validate_param_and_metric_name(name) for name in metrics)
    assert sorted(one["value"] for one in metrics.values()) == [1.0, 2.0]
    assert "work" in metrics


ODD = [
    "größe(1)",
    "a→b",
    "a(b)",
    "a[b]",
    "mean@1",
    "k" * 300,
    "k" * 301,
    "",
    "a//b",
    "../a",
    "/a",
    "a/..",
]


@pytest.mark.parametrize("name", ["attribution.seed", "größe", "a/b c:d-e_f", "k" * 200])
def test_a_name_that_mlflow_takes_stays(name):
    assert _mlflow_name(name) == name


def test_other_names_are_made_safe_and_stay_apart():
    made = [_mlflow_name(name) for name in ODD]
    assert len(set(made)) == len(ODD)
    assert all(validate_param_and_metric_name(name) for name in made)
    assert max(map(len, made)) < 240


def test_versions_are_there_with_and_without_a_repository(tmp_path):
    tags = _environment_tags(tmp_path)
    assert {"sourcetrace.version", "sourcetrace.python", "sourcetrace.polars"} <= set(tags)
    assert "mlflow.source.git.commit" not in tags


def test_a_repository_has_a_revision_and_says_whether_files_differ(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    tags = _environment_tags(tmp_path)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["sourcetrace.git.dirty"] == "false"
    (tmp_path / "file").touch()
    assert _environment_tags(tmp_path)["sourcetrace.git.dirty"] == "true"


def test_arguments_with_nothing_behind_them_are_none():
    assert TaskParameters.model_validate({"class": "a.Task", "arguments": None}).arguments == {}
