"""The preflight, and the status, as a user runs them."""

import json
import sqlite3

import pytest

from tests.test_commands import kedro

pytestmark = pytest.mark.slow


def files_of(project):
    return {
        path: path.read_bytes()
        for path in sorted((project / "data").rglob("*"))
        if path.is_file() and not path.name.startswith(("preflight", "run.lock"))
    }


def runs_of(project):
    with sqlite3.connect(project / "mlflow.db") as store:
        return store.execute("SELECT count(*) FROM runs").fetchone()


def test_it_says_all_ends_as_an_audit_would_and_leaves_everything_as_it_was(short_demo, tmp_path):
    project = short_demo(tmp_path / "a project")
    before, runs = files_of(project), runs_of(project)
    run = kedro(project, "run", "--pipelines", "preflight")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "training data" in run.stdout
    assert "0 refused" in run.stdout
    report = json.loads((project / "data/08_reporting/preflight.json").read_text())
    assert {one["status"] for one in report["checks"]} == {"ok"}

    settings = "checkpoints.path=nowhere,attribution.device=none"
    run = kedro(project, "run", "--pipelines", "preflight", "--params", settings)
    assert run.returncode != 0
    assert "there is no folder" in " ".join(run.stdout.split())
    report = json.loads((project / "data/08_reporting/preflight.json").read_text())
    refused = [one["title"] for one in report["checks"] if one["status"] == "refused"]
    assert refused == ["device", "checkpoints"]
    ok = {one["title"] for one in report["checks"] if one["status"] == "ok"}
    assert ok >= {"model", "training table", "query table", "training data", "query data"}
    assert "An audit would end with an error" in run.stderr
    assert "Traceback" not in run.stderr
    assert "have not run" not in run.stderr
    assert files_of(project) == before

    run = kedro(project, "run", "--pipelines", "status", "--params", "status.check=true")
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Every byte was read. A run removes nothing." in run.stdout
    assert files_of(project) == before
    assert runs_of(project) == runs
