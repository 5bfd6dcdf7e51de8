"""What makes an example the same one: its inputs, not its label, its id or its place."""

import logging

import polars as pl
import pytest
import torch
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.data_digest import data_digest
from sourcetrace.audit.identity.example_digests import digest_examples, split_label
from sourcetrace.schemas import ExampleDigests

INPUTS = torch.arange(12.0).reshape(3, 4)
TABLE = pl.DataFrame({"example_id": ["a", "b", "c"], "label": ["0", "1", "0"]})


class Counting:
    """Counts how often each example is read."""

    def __init__(self, items):
        self.items, self.reads = items, [0] * len(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.items[index]


def digests(items, table=TABLE, **options):
    return ExampleDigests.validate(digest_examples(items, table, **options)[1])


def test_it_is_the_datas_digest_and_one_for_every_example_from_the_same_reading():
    items = Counting(TensorDataset(INPUTS, torch.tensor([0, 1, 0])))
    digest, table = digest_examples(items, TABLE)
    # The first two are read three times to see whether they stay the same.
    assert items.reads == [3, 3, 3]
    assert digest == data_digest(items.items, TABLE)
    assert table["example_id"].to_list() == ["a", "b", "c"]
    assert table["input_digest"].n_unique() == 3


def test_another_label_changes_the_target_alone():
    one = digests(TensorDataset(INPUTS, torch.tensor([0, 1, 0])))
    other = digests(TensorDataset(INPUTS, torch.tensor([0, 1, 1])))
    assert one["input_digest"].to_list() == other["input_digest"].to_list()
    assert (one["target_digest"] != other["target_digest"]).to_list() == [False, False, True]


def test_another_input_changes_its_own_digest_alone():
    changed = INPUTS.clone()
    changed[1, 2] += 1
    one, other = (digests(TensorDataset(x, torch.tensor([0, 1, 0]))) for x in (INPUTS, changed))
    assert (one["input_digest"] != other["input_digest"]).to_list() == [False, True, False]
    assert one["target_digest"].to_list() == other["target_digest"].to_list()


@pytest.mark.parametrize(
    ("item", "inputs", "target"),
    [
        ((1, 2), 1, 2),
        ([1, 2], 1, 2),
        ((1, 2, 3), (1, 2, 3), None),
        ({"pixels": 1, "label": 2}, {"pixels": 1}, {"label": 2}),
        ({"tokens": 1}, {"tokens": 1}, None),
        ({"labels": 1}, {"labels": 1}, None),
        ("text", "text", None),
    ],
)
def test_where_the_label_is_found(item, inputs, target):
    assert split_label(item) == (inputs, target)


def test_a_task_may_say_what_an_example_is():
    items = [(INPUTS[i], i, "weight") for i in range(3)]
    one = digests(items, inputs_of=lambda item: item[0])
    other = digests([(x, 9, w) for x, _, w in items], inputs_of=lambda item: item[0])
    assert one["input_digest"].to_list() == other["input_digest"].to_list()
    assert one["target_digest"].is_null().all()


def test_examples_without_stable_content_have_ids_and_labels_alone(caplog):
    class Augmented(Counting):
        def __getitem__(self, index):
            return torch.rand(2), index

    with caplog.at_level(logging.WARNING):
        table = digests(Augmented(range(3)))
    assert "ids and labels alone" in caplog.text
    assert table["input_digest"].is_null().all()
    assert table["label"].to_list() == ["0", "1", "0"]


def test_a_table_without_labels_has_none():
    table = digests(TensorDataset(INPUTS), TABLE.drop("label"))
    assert table["label"].is_null().all()
    assert table["input_digest"].null_count() == 0


def test_an_example_of_an_unknown_type_far_down_leaves_no_half_table():
    table = digests([(1, 2), (3, 4), (object(), 5)])
    assert table["input_digest"].is_null().all()
