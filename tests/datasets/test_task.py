"""Naming a task: every mistake is met with what to change."""

import sys

import pytest

from sourcetrace.datasets.task import TaskDataset
from sourcetrace.errors import InputError
from sourcetrace.tasks.loading import load_task


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "made_up_tasks.py").write_text(
        "class Empty:\n    def __init__(self, table='x'):\n        self.table = table\n"
        "class Broken:\n    def __init__(self):\n        raise OSError('no table')\n"
    )
    (tmp_path / "broken_tasks.py").write_text("unknown\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_up_tasks"
    sys.modules.pop("made_up_tasks", None)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ({"class": "nowhere.tasks.Churn"}, "there is no module 'nowhere'"),
        ({"class": "made_up_tasks.Churn"}, "has no class 'Churn'"),
        ({"class": "made_up_tasks.Empty", "arguments": {"year": 1}}, "task.arguments do not fit"),
        ({"class": "made_up_tasks.Empty"}, "is not a task: it lacks build_model, collate"),
        ({"class": "made_up_tasks.Broken"}, "made_up_tasks.Broken(…) failed: OSError: no table ("),
        ({"class": "broken_tasks.Churn"}, "the import of 'broken_tasks' failed: NameError: name"),
        ({"class": "Churn"}, "expected {class: package.module.Class"),
        ({}, "expected {class: package.module.Class"),
    ],
)
def test_a_wrong_name_is_refused(module, specification, message):
    with pytest.raises(InputError) as caught:
        load_task(specification)
    assert message in str(caught.value)


def test_every_stage_gets_the_same_task(tmp_path):
    import polars as pl

    for name in ("train", "query"):
        pl.DataFrame({"example_id": ["a"], "label": [1]}).write_parquet(tmp_path / name)
    dataset = TaskDataset(
        {
            "class": "sourcetrace.tasks.digits.DigitsTask",
            "arguments": {
                "training_set": str(tmp_path / "train"),
                "query_set": str(tmp_path / "query"),
            },
        }
    )
    assert dataset.load() is dataset.load()
