"""The commands of the README, run as a user runs them, in a folder with a space in its name."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

from tests import REPOSITORY
from tests.forked import run_forked
from tests.tiny import state_of

pytestmark = pytest.mark.slow

KEDRO = Path(sys.executable).with_name("kedro")


def make_project(folder):
    folder.mkdir()
    shutil.copytree(REPOSITORY / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf/local").mkdir()
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copytree(
        REPOSITORY / "src",
        folder / "src",
        # Compiled modules come along, valid for files as old as theirs; half-written ones do not.
        ignore=shutil.ignore_patterns("*.egg-info", "*.pyc.*"),
    )
    return folder


def kedro(project, *arguments, **environment):
    environment = {**os.environ, "COLUMNS": "120", "DO_NOT_TRACK": "true", **environment}
    return run_forked("kedro", arguments, cwd=project, environment=environment)


def fresh_kedro(project, *arguments, **environment):
    """Run the command as it is installed, in an interpreter that has loaded nothing."""
    return subprocess.run(
        [KEDRO, *arguments],
        cwd=project,
        env={**os.environ, "COLUMNS": "120", "DO_NOT_TRACK": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def sourcetrace(project, *arguments, **environment):
    """Run the command in a project, whose MLflow is the configured one and waits for no server."""
    unset = {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in unset},
        "COLUMNS": "300",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        **environment,
    }
    return run_forked("sourcetrace", arguments, cwd=project, environment=environment)


def scores_of(project):
    folder = project / "data/07_model_output/attribution_scores"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A project in which plain `kedro run` has run."""
    project = make_project(tmp_path_factory.mktemp("demo") / "a project")
    run = fresh_kedro(project, "run")
    assert run.returncode == 0, run.stderr[-3000:]
    return project, run


def test_the_demo_finds_the_planted_errors(demo):
    project, run = demo
    truth = json.loads((project / "data/08_reporting/ground_truth.json").read_text())
    ours = truth["rankings"][0]
    assert ours["found"] / truth["planted"] >= 0.9
    lines = run.stdout.splitlines()
    assert any("1,437 training examples" in line and "6 checkpoints" in line for line in lines)
    assert any(f"{ours['found']} of 115" in line for line in lines)
    assert "data/08_reporting/cleaning_report.html" in run.stdout
    assert "kedro mlflow ui" in run.stdout
    assert "Not verified: no retraining has tested these scores." in run.stdout
    assert "kedro run --pipelines verification" in run.stdout
    assert "Traceback" not in run.stderr
    assert "Warning" not in run.stderr + run.stdout


def test_scores_are_in_the_order_of_the_training_table(demo):
    project, _ = demo
    scores = pl.concat(
        [
            pl.read_parquet(f)
            for f in sorted((project / "data/07_model_output/attribution_scores").iterdir())
        ]
    )
    table = pl.read_parquet(project / "data/03_primary/train_table.parquet")
    assert scores["example_id"].to_list() == table["example_id"].to_list()
    assert scores.schema["scores"] == pl.Array(pl.Float32, 360)
    parts = pl.concat(
        [
            pl.read_parquet(f)
            for f in sorted((project / "data/07_model_output/segment_contributions").iterdir())
        ]
    )
    harm = parts.group_by("example_id", maintain_order=True).agg(pl.col("harm").sum())
    total = scores["scores"].to_numpy().sum(1)
    assert harm["harm"].to_numpy() == pytest.approx(total, rel=1e-3, abs=1e-3)


# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_has_the_run_the_metrics_and_the_model(demo):
    from mlflow.tracking import MlflowClient

    project, _ = demo
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sourcetrace")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["demo.harm_average_precision"] > 0.9
    assert run.data.metrics["audit.attributed_share"] == 1.0
    assert run.info.run_name == "DigitsTask in checkpoints: scaled_source"
    assert run.data.params["attribution.method"] == "scaled_source"
    assert "attribution" not in run.data.params
    assert run.data.metrics["system/audit.work.source_scoring.seconds"] > 0
    assert len([name for name in run.data.metrics if name.startswith("audit.")]) <= 12
    assert run.data.tags["sourcetrace.version"]
    version = client.get_model_version("sourcetrace-digits", "1")
    assert version.run_id == run.info.run_id
    assert version.tags["lineage.data_matches"] == "true"
    assert version.tags["audit.run_id"] == run.info.run_id
    assert "1,437 training examples" in version.description
    # Six checkpoints and the registered model; the training data and the queries.
    inputs = client.get_run(run.info.run_id).inputs  # a search leaves models out
    assert len(inputs.model_inputs) == 7
    assert len(inputs.dataset_inputs) == 2
    page = (project / "data/08_reporting/cleaning_report.html").read_bytes()
    assert version.tags["audit.report_sha256"] == hashlib.sha256(page).hexdigest()


def test_verification_trains_again_and_the_page_says_so_as_long_as_the_scores_last(
    short_demo, tmp_path
):
    project = short_demo(tmp_path / "a project")
    small = "verification.subsets=3,verification.seeds=1,verification.removal_queries=1"
    run = kedro(project, "run", "--pipelines", "verification", "--params", small)
    assert run.returncode == 0, run.stderr[-3000:]
    said = " ".join((run.stdout + run.stderr).split())
    assert "8 retrainings of up to 1437 examples, 0 of them known already" in said
    assert "retrained on 3 random halves of the training data" in said
    page = project / "data/08_reporting/cleaning_report.html"
    assert "Against the planted errors" in page.read_text()
    assert "retrained on 3 random halves" in page.read_text()
    outcomes = project / "data/07_model_output/retrained_outcomes"
    assert len(list(outcomes.glob("retraining/*/outcome.json"))) == 8

    report = ("run", "--pipelines", "cleaning_report")
    assert "retrained on 3 random halves" in " ".join(kedro(project, *report).stdout.split())
    assert "retrained on 3 random halves" in page.read_text()
    (scores, *_) = sorted((project / "data/07_model_output/attribution_scores").iterdir())
    before = scores.read_bytes()
    rows = pl.read_parquet(scores)
    rows.with_columns(example_id=pl.col("example_id").reverse()).write_parquet(scores)
    exchanged = " ".join(kedro(project, *report).stderr.split())
    assert "part-000000.parquet is damaged, or another file was put in its place" in exchanged
    scores.write_bytes(before)
    other = ("run", "--pipelines", "{}", "--params", "attribution.tolerance=0.01")
    for stage in ("source_scoring", "cleaning_report"):
        run = kedro(project, *(part.format(stage) for part in other))
        assert run.returncode == 0, run.stderr[-3000:]
    assert "verification was of earlier scores" in " ".join(run.stdout.split())
    assert "verification was of earlier scores" in page.read_text()


def test_verification_without_an_audit_says_what_to_run(tmp_path):
    run = kedro(make_project(tmp_path / "project"), "run", "--pipelines", "verification")
    assert run.returncode not in (0, None)
    ending = " ".join(run.stderr.split("Error:")[-1].split())
    assert "Nothing was audited yet" in ending
    assert ending.endswith("Run `kedro run --pipelines audit` first.")


def test_the_same_seed_gives_the_same_bytes_and_the_audit_needs_no_answer_key(demo):
    project, _ = demo
    before = scores_of(project)
    shutil.rmtree(project / "data/01_raw/digits_answer_key")
    run = kedro(project, "run", "--pipelines", "audit")
    assert run.returncode == 0, run.stderr[-3000:]
    assert scores_of(project) == before


@pytest.mark.parametrize("policy", ["disk", "recompute"])
def test_the_memory_policy_does_not_change_the_scores(demo, policy):
    project, _ = demo
    before = scores_of(project)
    # All is computed again, in the same batches.
    shutil.rmtree(project / "data/04_feature/gradients/units")
    run = kedro(
        project,
        "run",
        "--from-nodes",
        "check_inputs",
        "--to-nodes",
        "score_examples",
        "--params",
        f"gradients.cache={policy}",
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert scores_of(project) == before
    kept = list((project / "data/04_feature/gradients").glob("*/*.safetensors"))
    assert bool(kept) == (policy == "disk")


def test_a_report_from_existing_tables_needs_no_torch(demo, tmp_path):
    project, _ = demo
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    run = fresh_kedro(project, "run", "--pipelines", "cleaning_report", PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    run = fresh_kedro(project, "run", "--pipelines", "status", PYTHONPATH=str(tmp_path))
    assert "take what is there" in run.stdout, run.stderr[-3000:]
    assert fresh_kedro(project, "--help", PYTHONPATH=str(tmp_path)).returncode == 0
    verdict = [sys.executable, "-c", "import sourcetrace.commands.audit_run"]
    paths = os.pathsep.join([str(tmp_path), str(project / "src")])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run(verdict, env=environment, check=True)
    # Nor does a query whose scores are stored, nor MLflow.
    (tmp_path / "mlflow.py").write_text("raise ImportError('MLflow was imported')")
    query = pl.read_parquet(project / "data/03_primary/query_table.parquet")["example_id"][0]
    explain = [sys.executable, "-m", "sourcetrace", "explain", query, "-k", "12"]
    run = subprocess.run(
        explain, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert f"Query {query}" in run.stdout, run.stderr[-3000:]
    assert "without its 12 strongest helpers" in run.stdout
    assert not run.stderr


def test_a_wrong_input_ends_with_one_paragraph_and_leaves_outputs_alone(demo):
    project, _ = demo
    before = {file: file.read_bytes() for file in (project / "data").rglob("*") if file.is_file()}
    (project / "empty").mkdir(exist_ok=True)
    run = kedro(project, "run", "--pipelines", "audit", "--params", "checkpoints.path=empty")
    assert run.returncode not in (0, None)
    ending = " ".join(run.stderr.split("Error:")[-1].split())
    assert "holds no checkpoint (.pt, " in ending
    assert "Traceback" not in run.stderr + run.stdout
    unknown = kedro(project, "run", "--pipelines", "audit", "--params", "task.class=no.Task")
    assert unknown.returncode not in (0, None)
    assert "there is no module 'no'" in " ".join(unknown.stderr.split())
    mixed = kedro(
        project, "run", "--pipelines", "source_scoring", "--params", "attribution.method=influence"
    )
    assert mixed.returncode not in (0, None)
    assert "was made with another method, seed, precision, sampled_labels" in " ".join(
        mixed.stderr.split()
    )
    for mistyped, meant in (
        (
            ("--params", "segment.count=1"),
            "takes segment. Did you mean segments?",
        ),
        (
            ("--env", "gtp"),
            "There is no environment gtp: expected the name of",
        ),
    ):
        refused = kedro(project, "run", "--pipelines", "audit", *mistyped)
        assert refused.returncode not in (0, None)
        assert meant in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr + refused.stdout
    after = {file: file.read_bytes() for file in (project / "data").rglob("*") if file.is_file()}
    assert after == before


def make_churn_project(folder):
    """Do what docs/guide/your_model.md says, with the code that stands there."""
    project = make_project(folder)
    page = (REPOSITORY / "docs/guide/your_model.md").read_text(encoding="utf-8")
    code = next(b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "class ChurnTask" in b)
    assert len(code.splitlines()) < 60
    (project / "churn.py").write_text(code)
    (project / "conf/mine").mkdir()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (parameters,) = (one for one in blocks if "ChurnTask" in one)
    (project / "conf/mine/parameters.yml").write_text(parameters)
    return project


def test_the_documented_task_is_audited_and_corrected_labels_are_resolved_suspects(tmp_path):
    project = make_churn_project(tmp_path / "a project")
    reports = project / "data/08_reporting"
    audit = ("run", "--pipelines", "audit", "--env", "mine")
    wrong = train_churn_model(project / "data/01_raw")
    first = kedro(project, *audit)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "No earlier audit of this task and model is kept" in " ".join(first.stdout.split())
    review = pl.read_parquet(reports / "review_list.parquet")
    assert len(set(review["example_id"].head(2 * len(wrong))) & wrong) >= 0.7 * len(wrong)
    suspects = set(review.filter(pl.col("suggested_action") != "keep")["example_id"])

    # Half of the wrong labels are corrected, and the model is trained again.
    left = train_churn_model(project / "data/01_raw", wrong=range(0, 240, 40))
    corrected = wrong - left
    second = kedro(project, *audit)

    assert second.returncode == 0, second.stderr[-3000:]
    changes = pl.read_parquet(reports / "audit_comparison.parquet")
    assert set(changes.filter(change="relabelled")["example_id"]) == corrected
    resolved = set(changes.filter(status="resolved", change="relabelled")["example_id"])
    assert resolved == corrected & suspects
    persisting = changes.filter(status="persisting")
    assert len(set(persisting["example_id"]) & left) >= 0.5 * len(left)
    assert set(persisting["audits_suspected"]) == {2}
    told = " ".join(second.stdout.split())
    assert f"resolved ({len(resolved)} relabelled" in told
    result = json.loads((reports / "audit.json").read_text())
    assert result["comparison"]["relabelled"] == len(corrected)
    assert result["metrics"]["changed_example_share"] == len(corrected) / 240
    page = (reports / "cleaning_report.html").read_bytes()
    assert f"Training data: {len(corrected)} relabelled.".encode() in page

    # What runs again is compared with the same audit, and kept once.
    for again in ("cleaning_report", "gate"):
        assert kedro(project, "run", "--pipelines", again, "--env", "mine").returncode == 0
    assert (reports / "cleaning_report.html").read_bytes() == page
    assert len(list((reports / "audit_snapshots").glob("*.json"))) == 2


def train_churn_model(folder, wrong=range(0, 240, 20)):
    """Write a table of 240 with these labels wrong and checkpoints of a model trained on it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 4, generator=generator)
    labels = (inputs @ torch.tensor([1.5, -1.0, 0.5, 2.0]) > 0).long()
    given = labels.clone()
    given[list(wrong)] = 1 - given[list(wrong)]
    table = pl.DataFrame(inputs.numpy(), schema=["months", "calls", "spend", "complaints"])
    table = table.with_columns(
        customer=pl.Series([f"customer {i}" for i in range(300)]),
        left=pl.Series(given.tolist()),
        split=pl.Series(["train"] * 240 + ["query"] * 60),
    )
    table.write_parquet(folder / "churn.parquet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    (folder / "churn_checkpoints").mkdir(exist_ok=True)
    for step in range(1, 181):
        rows = torch.randint(240, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), given[rows]).backward()
        optimizer.step()
        if step % 60 == 0:
            torch.save(
                state_of(step, model, optimizer),
                folder / f"churn_checkpoints/step_{step}.pt",
            )
    return {f"customer {i}" for i in wrong}
