"""A project as the examples expect it: its own .venv, and an environment `nightly`."""

import sys

import pytest

from tests.test_commands import kedro, make_project


@pytest.fixture(scope="session")
def audited(tmp_path_factory):
    """A project whose demo was trained and audited."""
    project = make_project(tmp_path_factory.mktemp("examples") / "a project")
    (project / ".venv").symlink_to(sys.prefix)
    (project / "conf/nightly").mkdir()
    run = kedro(project, "run", "--params", "demo.epochs=2,demo.checkpoints=2")
    assert run.returncode == 0, run.stderr[-3000:]
    return project


@pytest.fixture
def nightly(audited):
    """Return a function that sets the environment's parameters."""
    file = audited / "conf/nightly/parameters.yml"
    yield file.write_text
    file.unlink(missing_ok=True)
