"""A task without examples that cannot be used is the task of the others."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.pipelines.checkpoint_ingest.tables import digest_side
from sourcetrace.tasks import ClassificationTask
from sourcetrace.tasks.items import CheckedItems
from sourcetrace.tasks.loading import load_task
from sourcetrace.tasks.set_aside import set_aside

WRONG = {3: "unreadable", 7: "short"}
KEPT = [0, 1, 2, 4, 5, 6, 8, 9]


class Items:
    def __init__(self, numbers, wrong):
        self.numbers, self.wrong = numbers, wrong

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        kind = self.wrong.get(number)
        if kind == "unreadable":
            raise OSError("broken picture")
        return torch.full((1 if kind == "short" else 2,), float(number)), torch.tensor(number % 2)


class Pictures(ClassificationTask):
    """Ten training examples and four queries."""

    def __init__(self, numbers=tuple(range(10)), wrong=None, queries=None):
        self.numbers, self.wrong, self.queries = list(numbers), wrong or {}, queries or {}

    def build_model(self):
        return nn.Linear(2, 2)

    def train_examples(self):
        return Items(self.numbers, self.wrong)

    def query_examples(self):
        return Items(range(4), self.queries)

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in self.numbers]})

    def query_table(self):
        return pl.DataFrame({"example_id": [f"q{i}" for i in range(4)]})

    def train(self, indices, *, seed):
        return [self.numbers[i] for i in indices], seed

    def relabelled(self, labels):
        other = Pictures(self.numbers, self.wrong, self.queries)
        other.train = lambda indices, *, seed: ([self.numbers[i] for i in indices], labels)
        return other

    def picture(self, index):
        return np.full((2, 2), self.numbers[index] / 10)

    def query_picture(self, index):
        return np.full((2, 2), index / 10)


def loaded(share, **arguments):
    name = f"{__name__}.Pictures"
    return load_task({"class": name, "arguments": arguments, "set_aside": share})


def test_it_is_the_task_that_never_had_them():
    task, other = loaded(0.2, wrong=WRONG), Pictures(KEPT)
    assert isinstance(task, Pictures)
    assert task_digests(task) == task_digests(other)
    assert task.train_table()["example_id"].to_list() == [f"e{i}" for i in KEPT]
    assert [float(task.train_examples()[i][0][0]) for i in range(8)] == KEPT
    assert len(task.query_examples()) == 4
    # By their own numbers.
    assert task.train([2, 3, 7], seed=5) == ([2, 4, 9], 5)
    assert task.picture(3)[0, 0] == 0.4


def test_each_is_named_with_its_reason():
    task = loaded(0.25, wrong=WRONG, queries={1: "unreadable"})
    first, second = set_aside(task, "train")
    assert (first["example_id"], first["index"]) == ("e3", 3)
    assert "broken picture" in first["reason"]
    assert (second["example_id"], second["index"]) == ("e7", 7)
    assert "stack expects" in second["reason"]
    assert [one["example_id"] for one in set_aside(task, "query")] == ["q1"]
    assert task.query_table()["example_id"].to_list() == ["q0", "q2", "q3"]
    assert [task.query_picture(number)[0, 0] for number in range(3)] == [0, 0.2, 0.3]


@pytest.mark.parametrize(
    ("share", "wrong", "queries"),
    [
        (0.0, WRONG, {}),
        (0.19, WRONG, {}),
        (0.2, WRONG, {1: "unreadable"}),  # one of four is more
        (0.2, {}, {}),
    ],
)
def test_with_more_than_the_share_or_none_it_stays_as_it_was(share, wrong, queries):
    task = loaded(share, wrong=wrong, queries=queries)
    assert len(task.train_examples()) == 10
    assert set_aside(task, "train") == set_aside(task, "query") == []
    assert "train" not in vars(task)


def test_a_side_that_is_refused_later_is_not_looked_at(monkeypatch):
    for table in (None, pl.DataFrame({"name": range(10)}), pl.DataFrame({"example_id": ["a"]})):
        monkeypatch.setattr(Pictures, "train_table", lambda _, table=table: table)
        assert set_aside(loaded(0.5, wrong=WRONG), "train") == []


def test_the_ingest_says_what_was_set_aside(caplog):
    task = loaded(0.2, wrong=WRONG)
    table = task.train_table().with_columns(label=pl.lit(None, dtype=pl.String))
    items = CheckedItems(task, "train", table["example_id"].to_list())
    side, examples = digest_side(task, items, table)
    assert side["set_aside"] == set_aside(task, "train")
    assert side["rows"] == examples.height == len(KEPT)
    assert "2 examples set aside that cannot be used (task.set_aside)" in caplog.text
    assert "'e3' (index 3), 'e7' (index 7); the first: OSError: broken picture" in caplog.text


def test_it_is_relabelled_by_the_numbers_that_are_known():
    share = {"class": f"{__name__}.Pictures", "arguments": {"wrong": WRONG}, "set_aside": 0.3}
    task = load_task(share).relabelled({3: "1"})
    assert task.train([0, 3, 7], seed=0) == ([0, 4, 9], {4: "1"})
