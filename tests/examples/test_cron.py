"""The crontab's line, run as cron runs it."""

import os
import re
import subprocess
import sys

import pytest
from filelock import FileLock

from tests import REPOSITORY

CRONTAB = REPOSITORY / "examples/cron/crontab"


def parts():
    """Return the variables and the command of the one job."""
    lines = [line for line in CRONTAB.read_text().splitlines() if line and line[0] != "#"]
    *settings, job = lines
    variables = dict(line.split("=", 1) for line in settings)
    minute_to_weekday, command = re.fullmatch(r"((?:\S+ ){5})(.*)", job).groups()
    assert minute_to_weekday == "30 2 * * * "
    # cron ends a command at the first.
    assert "%" not in command
    return variables, command


def run_as_cron(project):
    variables, command = parts()
    environment = {
        **variables,
        "PATH": "/usr/bin:/bin",
        "HOME": str(project.parent),
        "SHELL": "/bin/sh",
        "LOGNAME": "somebody",
        "PROJECT": str(project),
    }
    # The source under test; an installed project needs none.
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=project.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    """A folder whose interpreter says what it is asked for, and ends as the file `code` says."""
    folder = tmp_path / "a project"
    (folder / "data").mkdir(parents=True)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text('#!/bin/sh\necho "asked: $*"\nexit $(cat code)\n')
    (folder / ".venv/bin/python").chmod(0o755)
    return folder


def test_a_night_that_passes_is_silent_and_has_a_log(project):
    (project / "code").write_text("0")
    run = run_as_cron(project)
    assert (run.returncode, run.stdout) == (0, "")
    log = (project / "data/audit.log").read_text()
    assert log == "asked: -m sourcetrace audit --env nightly\n"


@pytest.mark.parametrize("code", [1, 2, 3])
def test_any_other_night_prints_its_code_and_the_end_of_the_log(project, code):
    (project / "code").write_text(str(code))
    run = run_as_cron(project)
    assert run.returncode == code
    assert run.stdout.splitlines() == [
        f"sourcetrace audit in {project}: exit code {code}",
        "asked: -m sourcetrace audit --env nightly",
    ]


@pytest.mark.slow
def test_the_command_is_one_that_a_project_takes(audited, nightly):
    (audited / ".venv").symlink_to(sys.prefix)
    nightly("checkpoints: {path: nowhere}")
    run = run_as_cron(audited)
    assert run.returncode == 2, run.stdout
    assert "nowhere" in run.stdout


def test_a_night_that_finds_another_audit_running_leaves_it_and_its_log_alone(project):
    log = project / "data/audit.log"
    log.write_text("of the audit that runs\n")
    with FileLock(project / "data/audit.lock"):
        run = run_as_cron(project)
    assert run.returncode == 75
    assert run.stdout.endswith("exit code 75\nof the audit that runs\n")
    assert log.read_text() == "of the audit that runs\n"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    run = run_as_cron(tmp_path / "gone")
    assert run.returncode == 2
    assert "gone" in run.stdout
