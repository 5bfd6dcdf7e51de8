"""Runs that are told to end, or killed, in each of three stages, and the run after them."""

import signal

import pytest
from mlflow.tracking import MlflowClient

from tests.test_commands import kedro, sourcetrace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ENDING = """

import os as _os
import signal as _signal
from kedro.framework.hooks import hook_impl


class _Ending:
    @hook_impl
    def before_node_run(self, node):
        if node.name == _os.environ.get("END_AT"):
            _os.kill(_os.getpid(), int(_os.environ["END_BY"]))


HOOKS = (*HOOKS, _Ending())
_signal.signal(_signal.SIGINT, _signal.default_int_handler)
"""
"""Where the tests run in the background, their shell has Ctrl-C ignored, and so would the run."""


@pytest.fixture
def project(short_demo, tmp_path):
    folder = short_demo(tmp_path / "a project")
    with (folder / "src/sourcetrace/settings.py").open("a", encoding="utf-8") as file:
        file.write(ENDING)
    return folder


def end(command, project, *arguments, at, by):
    return command(
        project, *arguments, PYTHONPATH=str(project / "src"), END_AT=at, END_BY=str(int(by))
    )


def test_a_run_that_is_ended_is_killed_in_mlflow_and_leaves_nothing_behind(project):
    def statuses():
        client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("sourcetrace").experiment_id
        runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return [run.info.status for run in runs][before:]

    before = 0
    before = len(statuses())
    run = ["run", "--pipelines", "audit"]
    for command, arguments, at, by in [
        (kedro, run, "extract_gradients", signal.SIGINT),
        (sourcetrace, ["audit"], "fit_curvature", signal.SIGTERM),
    ]:
        ended = end(command, project, *arguments, at=at, by=by)
        assert ended.returncode == 128 + by
        said = " ".join((ended.stdout + ended.stderr).split())
        assert said.count("run the same command again") == 1
        assert "Traceback" not in said
        assert set(statuses()) == {"KILLED"}
        assert not list(project.glob("data/**/*.partial"))
        assert not (project / "data/08_reporting/run.lock.json").exists()

    assert end(kedro, project, *run, at="score_examples", by=signal.SIGKILL).returncode == -9
    assert statuses() == ["KILLED", "KILLED", "RUNNING"]
    again = end(kedro, project, *run, at="", by=0)
    assert again.returncode == 0, again.stderr[-3000:]
    assert statuses() == ["KILLED", "KILLED", "KILLED", "FINISHED"]
