"""Audits of a real project that tell, and the ones that have nothing to tell."""

import os

import polars as pl
import pytest

from sourcetrace.integrations.webhooks.signature import verify
from tests.forked import run_forked
from tests.integrations.alerts.receiver import as_of_mlflow, receiving

pytestmark = pytest.mark.slow


def audit(project, receiver, *arguments):
    environment = {
        **os.environ,
        "DO_NOT_TRACK": "true",
        "SOURCETRACE_ALERT_URL": receiver.url,
        "SOURCETRACE_ALERT_SECRET": "hunter2",
    }
    return run_forked("sourcetrace", ["audit", *arguments], cwd=project, environment=environment)


def test_a_project_tells_of_failures_and_errors_once_each(short_demo, tmp_path):
    project = short_demo(tmp_path / "a project")
    (project / "conf/strict").mkdir()
    (project / "conf/strict/parameters.yml").write_text(
        "gate: {checks: [{metric: harmful_share, at_most: -1.0}]}"
    )
    with receiving(404, 200, 200) as receiver:
        # An error before any figure, of which nobody will hear: the audit ends as it would.
        runs = [audit(project, receiver, "--params", "checkpoints.path=nowhere")]
        assert (runs[-1].returncode, len(receiver.got)) == (2, 1), runs[-1].stderr[-3000:]
        said = " ".join((runs[-1].stdout + runs[-1].stderr).split())
        assert "The alert was not sent: the receiver answered 404" in said
        # An error in the configuration, before any pipeline.
        runs.append(audit(project, receiver, "--env", "nowhere"))
        assert (runs[-1].returncode, len(receiver.got)) == (2, 2), runs[-1].stderr[-3000:]

        runs.append(audit(project, receiver, "--pipelines", "gate", "--env", "strict"))
        assert (runs[-1].returncode, len(receiver.got)) == (1, 3), runs[-1].stderr[-3000:]

    assert [one["outcome"] for one in receiver.alerts] == ["error", "error", "fail"]
    failed = receiver.alerts[2]
    assert failed["model"] == {"name": "sourcetrace-digits", "version": "1"}
    assert failed["counts"]["training_examples"] == 1437
    assert failed["run"]["url"] is None
    for run in runs:
        assert "T0KEN" not in run.stdout + run.stderr
        assert "hunter2" not in run.stdout + run.stderr
    headers, body = receiver.got[2]
    given = as_of_mlflow(headers)
    now = float(given["X-MLflow-Timestamp"])
    verify(given, body, secret="hunter2", now=now, tolerance_seconds=1)
    ids = pl.read_parquet(project / "data/08_reporting/review_list.parquet")["example_id"]
    assert not [one for one in ids if one in body.decode()]
