"""The crontab's line, run as cron runs it."""

import fcntl
import os
import re
import subprocess

import pytest

from tests import REPOSITORY

pytestmark = pytest.mark.slow

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


def test_a_night_that_passes_is_silent_and_has_a_log(audited):
    run = run_as_cron(audited)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout
    log = (audited / "data/audit.log").read_text()
    assert "Audited 1,437 training examples" in log
    assert "Gate: warn" in log


@pytest.mark.parametrize(
    ("parameters", "code", "said"),
    [
        ("gate: {checks: [{metric: harmful_share, at_most: -1.0}]}", 1, "harmful_share is"),
        ("checkpoints: {path: nowhere}", 2, "nowhere"),
    ],
)
def test_any_other_night_prints_its_code_and_the_end_of_the_log(
    audited, nightly, parameters, code, said
):
    nightly(parameters)
    run = run_as_cron(audited)
    assert run.returncode == code, run.stdout
    assert run.stdout.startswith(f"sourcetrace audit in {audited}: exit code {code}\n")
    assert said in run.stdout


def test_a_night_that_finds_another_audit_running_leaves_it_and_its_log_alone(audited):
    log = audited / "data/audit.log"
    log.write_text("of the audit that runs\n")
    with (audited / "data/audit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = run_as_cron(audited)
    assert run.returncode == 75
    assert run.stdout.endswith("exit code 75\nof the audit that runs\n")
    assert log.read_text() == "of the audit that runs\n"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    run = run_as_cron(tmp_path / "gone")
    assert run.returncode == 2
    assert "gone" in run.stdout
