"""What a task's audit would read, whatever the task's code does."""

import pytest

from sourcetrace.audit.identity.data_digest import data_digest, table_digest
from sourcetrace.errors import InputError
from sourcetrace.tasks.loading import load_task
from sourcetrace.tracking.scheduling.task_reader import TaskReader

TASK = """
import os
import polars as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset
from sourcetrace.tasks import ClassificationTask

class Churn(ClassificationTask):
    def __init__(self, offset=0.0, ending=None):
        self.offset, self.ending = offset, ending
    def build_model(self):
        return nn.Linear(2, 2)
    def train_examples(self):
        if self.ending == "kill":
            os.kill(os.getpid(), 9)
        if self.ending == "exit":
            raise SystemExit(0)
        if self.ending == "error":
            raise RuntimeError("no such table")
        return TensorDataset(torch.ones(3, 2) + self.offset, torch.tensor([0, 1, 0]))
    query_examples = train_examples
    def train_table(self):
        return pl.DataFrame({"example_id": [1, 2, 3], "label": [0, 1, 0]})
    query_table = train_table
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "churn_of_reader.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def specification(**arguments):
    return {"class": "churn_of_reader.Churn", "arguments": arguments}


@pytest.mark.slow
def test_it_is_what_the_audit_itself_digests_and_a_broken_task_is_an_error_of_its_own(project):
    reader = TaskReader(project)
    for ending, message in {
        "error": "RuntimeError: no such table",
        "exit": "SystemExit",
        "kill": "died without a word",
    }.items():
        with pytest.raises(InputError, match=message):
            reader.read(specification(ending=ending))
    with pytest.raises(InputError, match="has no class 'Other'"):
        reader.read({"class": "churn_of_reader.Other"})
    found = reader.read(specification())
    assert reader.read(specification()) is found
    assert reader.read(specification(offset=1.0))["data"] != found["data"]
    task = load_task(specification())
    examples, table = task.train_examples(), task.train_table()
    training = found["data"]["training"]
    assert training["digest"] == data_digest(examples, table)
    assert training["table"] == table_digest(table)
    assert found["data"]["queries"] == found["data"]["training"]
