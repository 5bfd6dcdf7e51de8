"""Audits of a real project that tell, and the ones that have nothing to tell."""

import os
import subprocess
import sys

import polars as pl
import pytest

from sourcetrace.integrations.webhooks.signature import verify
from tests.integrations.alerts.receiver import as_of_mlflow, receiving
from tests.test_commands import kedro, make_project

pytestmark = pytest.mark.slow

SHORT = "demo.epochs=2,demo.checkpoints=2"


def audit(project, receiver, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "sourcetrace", "audit", *arguments],
        cwd=project,
        env={
            **os.environ,
            "DO_NOT_TRACK": "true",
            "SOURCETRACE_ALERT_URL": receiver.url,
            "SOURCETRACE_ALERT_SECRET": "hunter2",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_project_tells_of_failures_and_errors_once_each(tmp_path):
    project = make_project(tmp_path / "a project")
    with receiving(*[200] * 10) as receiver:
        # An error before any figure: there are no checkpoints yet.
        runs = [audit(project, receiver)]
        assert (runs[-1].returncode, len(receiver.got)) == (2, 1), runs[-1].stderr[-3000:]
        # An error in the configuration, before any pipeline.
        runs.append(audit(project, receiver, "--env", "nowhere"))
        assert (runs[-1].returncode, len(receiver.got)) == (2, 2), runs[-1].stderr[-3000:]

        runs.append(audit(project, receiver, "--pipelines", "__default__", "--params", SHORT))
        assert (runs[-1].returncode, len(receiver.got)) == (0, 2), runs[-1].stderr[-3000:]

        runs.append(
            audit(
                project,
                receiver,
                "--pipelines",
                "gate",
                "--params",
                "gate.require_verification=true",
            )
        )
        assert (runs[-1].returncode, len(receiver.got)) == (3, 3), runs[-1].stderr[-3000:]

        (project / "conf/strict").mkdir()
        (project / "conf/strict/parameters.yml").write_text(
            "gate: {checks: [{metric: harmful_share, at_most: -1.0}]}"
        )
        runs.append(audit(project, receiver, "--pipelines", "gate", "--env", "strict"))
        assert (runs[-1].returncode, len(receiver.got)) == (1, 4), runs[-1].stderr[-3000:]

        plain = kedro(
            project,
            *("run", "--pipelines", "gate", "--env", "strict"),
            SOURCETRACE_ALERT_URL=receiver.url,
        )
        assert (plain.returncode, len(receiver.got)) == (1, 5), plain.stderr[-3000:]

    assert [one["outcome"] for one in receiver.alerts] == [
        *("error", "error", "inconclusive", "fail", "fail")
    ]
    failed = receiver.alerts[3]
    assert failed["model"] == {"name": "sourcetrace-digits", "version": "1"}
    assert failed["counts"]["training_examples"] == 1437
    assert failed["run"]["url"] is None
    for run in runs:
        assert "T0KEN" not in run.stdout + run.stderr
        assert "hunter2" not in run.stdout + run.stderr
    headers, body = receiver.got[3]
    given = as_of_mlflow(headers)
    now = float(given["X-MLflow-Timestamp"])
    verify(given, body, secret="hunter2", now=now, tolerance_seconds=1)
    ids = pl.read_parquet(project / "data/08_reporting/review_list.parquet")["example_id"]
    assert not [one for one in ids if one in body.decode()]


def test_an_audit_whose_alert_nobody_takes_ends_as_it_would(tmp_path):
    project = make_project(tmp_path / "project")
    with receiving(404) as receiver:
        run = audit(project, receiver)
    assert run.returncode == 2
    assert "The alert was not sent: the receiver answered 404" in " ".join(
        (run.stdout + run.stderr).split()
    )
    assert "T0KEN" not in run.stdout + run.stderr
