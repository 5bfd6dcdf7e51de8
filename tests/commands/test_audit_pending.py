"""`sourcetrace audit --pending` from a registry in SQLite to its exit code."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from sourcetrace.commands.audit_pending import LOCK
from sourcetrace.locks import RUN_LOCK, HeldLock
from tests.forked import run_forked
from tests.test_commands import REPOSITORY, make_project, train_churn_model

pytestmark = [
    pytest.mark.slow,
    # MLflow's own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WATCHED = """
tracking:
  pending:
    - name: churn
      checkpoints: data/01_raw/churn/{version}
      parameters:
        task: TASK
"""


@pytest.fixture
def project(tmp_path):
    """A project with three registered versions, the second without its checkpoints.

    Its task is the guide's, by docs/reference/tasks.md with an entry of the environment's catalog,
    in the plan and in the audits.
    """
    project = make_project(tmp_path / "a project")
    pages = ("docs/guide/your_model.md", "docs/reference/tasks.md")
    text = "".join((REPOSITORY / page).read_text(encoding="utf-8") for page in pages)
    blocks = dict(re.findall(r"```\w+\n# ([\w./]+)[^\n]*\n(.*?)```", text, re.S))
    (project / "churn.py").write_text(blocks["churn.py"])
    (project / "conf/local/catalog.yml").write_text(blocks["conf/mine/catalog.yml"])
    task = json.dumps(yaml.safe_load(blocks["conf/mine/parameters.yml"])["task"])
    (project / "conf/local/parameters.yml").write_text(WATCHED.replace("TASK", task))
    train_churn_model(project / "data/01_raw")
    for version in ("1", "3"):
        folder = project / "data/01_raw/churn" / version
        shutil.copytree(project / "data/01_raw/churn_checkpoints", folder)
    (project / "data/01_raw/churn/3/step_60.pt").unlink()
    client = registry(project)
    client.create_registered_model("churn")
    for _ in range(3):
        client.create_model_version("churn", "s3://somewhere/model")
    return project


def registry(project):
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


PENDING = ("audit", "--pending", "--output", "json")


def pending(project, *arguments):
    environment = {**os.environ, "COLUMNS": "120", "DO_NOT_TRACK": "true"}
    run = run_forked("sourcetrace", [*PENDING, *arguments], cwd=project, environment=environment)
    assert "Traceback" not in run.stderr
    return run.returncode, json.loads(run.stdout or "[]"), run.stderr


def actions(results):
    return [one["action"] for one in results]


def test_versions_are_audited_once_and_again_when_it_is_due(project):
    reporting = project / "data/08_reporting"

    # An audit is killed in the middle, with the command that started it.
    killed = subprocess.Popen(
        [sys.executable, "-m", "sourcetrace", *PENDING],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # The audit holds the lock of the runs, after the command has let it go.
    while not _held_by_another(reporting / f"{RUN_LOCK}.json", than=killed.pid):
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    # One that is tagged is left out; the others' worst outcome decides.
    strict = ("--params", "gate.require_verification=true")
    tag(project, "true", "2")
    code, results, said = pending(project, *strict)
    assert code == 3, said[-3000:]
    assert actions(results) == ["audit", "skip", "audit"]
    assert results[0]["reason"] in ("never audited", "its audit was killed")
    assert results[2]["reason"] == "never audited"
    assert "2 of 2: churn version 3" in said
    for one in (results[0], results[2]):
        assert one["outcome"] == "inconclusive"
        tags = registry(project).get_model_version("churn", one["version"]).tags
        assert tags["audit.status"] == one["outcome"]
        assert tags["audit.run_id"] == one["run_id"]
        # Each version's reports are kept, and are of its own checkpoints.
        kept = project / one["reports"]
        page = (kept / "cleaning_report.html").read_bytes()
        assert hashlib.sha256(page).hexdigest() == tags["audit.report_sha256"]
        audited = json.loads((kept / "audit.json").read_text())["checkpoints"]
        files = sorted((project / one["checkpoints"]).glob("*.pt"))
        digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        assert {checkpoint["sha256"] for checkpoint in audited} == digests
    assert results[0]["run_id"] != results[2]["run_id"]

    # A verdict settles a version, a changed input makes it due.
    (project / "data/01_raw/churn/3/step_120.pt").unlink()
    tag(project, "false", "2")
    code, results, _ = pending(project, "--dry-run", *strict)
    assert (code, actions(results)) == (0, ["skip", "error", "audit"])
    assert results[2]["reason"] == "checkpoints changed"

    # What is missing is an error, whatever becomes of the others.
    tag(project, "true", "1", "3")
    code, results, said = pending(project)
    assert (code, actions(results)) == (2, ["skip", "error", "skip"]), said[-3000:]
    assert "there is no folder" in results[1]["message"]

    # A second one at the same time ends at once, and is no error.
    lock = HeldLock()
    assert lock.acquire(reporting / LOCK, wait=False)
    code, results, said = pending(project)
    assert (code, results) == (0, [])
    assert f"process {os.getpid()}" in said


def tag(project, skip, *versions):
    for version in versions:
        registry(project).set_model_version_tag("churn", version, "audit.skip", skip)


def _held_by_another(holder: Path, *, than: int) -> bool:
    try:
        return json.loads(holder.read_text())["pid"] != than
    except (OSError, ValueError):
        return False
