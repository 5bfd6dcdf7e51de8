"""A project as the examples expect it, with an environment `nightly`."""

import pytest


@pytest.fixture(scope="module")
def audited(short_demo, tmp_path_factory):
    """A project whose demo was trained and audited."""
    project = short_demo(tmp_path_factory.mktemp("examples") / "a project")
    (project / "conf/nightly").mkdir()
    return project


@pytest.fixture
def nightly(audited):
    """Return a function that sets the environment's parameters."""
    file = audited / "conf/nightly/parameters.yml"
    yield file.write_text
    file.unlink(missing_ok=True)
