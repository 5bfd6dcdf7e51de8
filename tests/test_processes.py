"""Audits by several processes: the bytes of one, whoever dies and whoever starts them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.test_commands import KEDRO, scores_of

pytestmark = pytest.mark.slow

STAGES = "gradient_extraction,ekfac_fitting,source_scoring"
PARAMETERS = "{task: {class: slow.Slow}, launch: {threads: 1, unit_seconds: 0.02}}"
TASK = """
import os, time
from pathlib import Path
from sourcetrace.tasks.digits import DigitsTask

LOGS = Path("data/04_feature/gradients/units/log")

class Slow(DigitsTask):
    def forward(self, model, batch):
        # The first process waits for others, which take long to come on a busy machine: not where
        # a few examples are tried.
        slow = float(os.environ["SLOW"])
        alone = len(list(LOGS.glob("*"))) == 1 and len(batch[0]) > 8
        time.sleep(slow if alone else slow / 30)
        return super().forward(model, batch)
"""


@pytest.fixture(scope="module")
def alone(short_demo, tmp_path_factory):
    """A project whose scores one process has computed."""
    project = Path(short_demo(tmp_path_factory.mktemp("alone") / "project"))
    (project / "slow.py").write_text(TASK)
    (project / "conf/local/parameters.yml").write_text(PARAMETERS)
    with run(project, KEDRO, "run", slow=0, pipelines=f"checkpoint_ingest,{STAGES}") as process:
        pass
    assert process.returncode == 0, (project / "said").read_text()[-3000:]
    return project


@pytest.fixture
def project(alone, tmp_path):
    """The same project before its numerical stages, cut into the same units."""
    project = tmp_path / "project"
    shutil.copytree(alone, project)
    for name in ("07_model_output", "04_feature/gradients/units"):
        shutil.rmtree(project / "data" / name)
    return project


@contextmanager
def run(project, *command, slow, params="launch.processes=1", pipelines=STAGES):
    with (project / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--pipelines", pipelines, "--params", params],
            cwd=project,
            env={**os.environ, "SLOW": str(slow), "PYTHONPATH": f"{project}/src"},
            stdout=said,
            stderr=said,
        )
    try:
        yield process
        process.wait(300)
    finally:
        process.kill()
        process.wait()


def workers_of(process):
    """Return a run's children that have done a unit, or are yet to."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    found = [int(one) for file in children for one in file.read_text().split()]
    return [one for one in found if b"worker" in command_of(one)]


def command_of(process_id):
    """Return a process's command; of one that has ended, nothing."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def logs_of(project):
    """Return process -> the units that it has done."""
    logs = (project / "data/04_feature/gradients/units/log").glob("*.jsonl")
    return {int(re.findall(r"-(\d+)-\d+\.jsonl", one.name)[0]): one.read_text() for one in logs}


def done_in(logs):
    """Return the units that logs say are done."""
    lines = [json.loads(line) for text in logs.values() for line in text.splitlines()]
    return {(one["stage"], one["name"]) for one in lines if one["files"]}


def until(holds):
    patience = time.monotonic() + 200
    while not (found := holds()):
        assert time.monotonic() < patience
        time.sleep(0.05)
    return found


def at_work(process, project):
    """Wait for a worker that has done a unit, and return it."""
    return until(lambda: [one for one in workers_of(process) if one in logs_of(project)])[0]


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_that_is_killed_is_replaced_and_the_scores_are_those_of_one_process(
    alone, project
):
    with run(project, KEDRO, "run", slow=3, params="launch.processes=3") as process:
        killed = at_work(process, project)
        os.kill(killed, signal.SIGKILL)
        workers = until(lambda: {*workers_of(process)} - {killed})
    said = (project / "said").read_text()
    assert process.returncode == 0, said[-3000:]
    assert "ended with exit code -9; it is" in said
    assert scores_of(project) == scores_of(alone)
    assert all(map(ended, workers))


@pytest.mark.parametrize(
    ("signal_number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_no_worker_outlives_a_run_that_is_ended_and_the_next_goes_on(
    alone, project, signal_number, code
):
    with run(project, KEDRO, "run", slow=3, params="launch.processes=2") as process:
        worker = at_work(process, project)
        process.send_signal(signal_number)
        assert process.wait(30) == code
    until(lambda: ended(worker))
    done = logs_of(project)
    with run(project, KEDRO, "run", slow=0, params="launch.processes=2") as process:
        pass
    assert process.returncode == 0, (project / "said").read_text()[-3000:]
    assert scores_of(project) == scores_of(alone)
    # The next run puts the old lines into its own log.
    known = {line for text in done.values() for line in text.splitlines()}
    again = {
        pid: "\n".join(line for line in text.splitlines() if line not in known)
        for pid, text in logs_of(project).items()
    }
    assert done_in(done).isdisjoint(done_in(again))


def test_torchrun_starts_processes_as_well(alone, project):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    own = "launch.read=own"
    with run(project, *torchrun, "-m", "kedro", "run", slow=1, params=own) as process:
        pass
    said = (project / "said").read_text()
    assert process.returncode == 0, said[-3000:]
    assert scores_of(project) == scores_of(alone)
    assert len(logs_of(project)) == 2


def test_more_processes_than_units_do_an_audit(alone, project):
    shutil.rmtree(project / "data/04_feature/gradients")
    params = "launch.processes=4,launch.unit_seconds=1000"
    with run(project, KEDRO, "run", slow=1, params=params) as process:
        pass
    assert process.returncode == 0, (project / "said").read_text()[-3000:]
