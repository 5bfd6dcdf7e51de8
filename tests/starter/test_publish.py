"""The starter is this project's own configuration."""

from pathlib import Path

import pytest
import yaml

from sourcetrace import starter
from sourcetrace.starter import FILES, starter_file
from sourcetrace.starter.publish import starter_texts
from tests import REPOSITORY

CONFIGURATION = REPOSITORY / "conf/base"


@pytest.mark.parametrize("name", FILES)
def test_it_is_up_to_date(name):
    path = Path(starter.__file__).parent / f"{name}.yml"
    assert path.read_text(encoding="utf-8") == starter_texts(CONFIGURATION)[name], (
        "conf/base has changed. Run `python -m sourcetrace.starter.publish`."
    )


def test_every_entry_but_the_demos_is_there_under_the_namespace():
    ours = yaml.safe_load((CONFIGURATION / "catalog.yml").read_text(encoding="utf-8"))
    theirs = yaml.safe_load(starter_file("catalog", namespace="mine", task="a.Task"))
    names = {name.removeprefix("mine.") for name in theirs}
    assert set(ours) - names == {
        name for name in ours if name.startswith(("digits", "demo", "planted"))
    }
    assert theirs["mine.task"]["specification"] == "${parameter:mine.task}"
    written = [one.get("filepath", one.get("path", "")) for one in theirs.values()]
    assert all("/mine/" in path for path in written if path.startswith("data/"))


def test_parameters_are_the_same_but_for_the_task_and_the_folder():
    ours = {}
    for path in CONFIGURATION.glob("parameters_*.yml"):
        ours |= yaml.safe_load(path.read_text(encoding="utf-8"))
    # Of the demo, and of the whole project.
    del ours["demo"], ours["alerts"]
    text = starter_file("parameters", namespace="mine", task="a.Task")
    theirs = yaml.safe_load(text)["mine"]
    ours["task"]["class"] = "a.Task"
    ours["checkpoints"]["path"] = "data/01_raw/mine/checkpoints"
    ours["checkpoints"]["cache"] = "data/01_raw/mine/fetched_checkpoints"
    assert theirs == ours
