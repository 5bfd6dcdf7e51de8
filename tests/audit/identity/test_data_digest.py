"""The data's digest: the same for the same content, another for any other."""

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.data_digest import (
    data_digest,
    digest_examples,
    same_data,
    table_digest,
)
from sourcetrace.schemas import ExampleDigests

TABLE = pl.DataFrame({"example_id": ["a", "b", "c"], "label": [0, 1, 0]})


def digest(items, table=TABLE):
    return data_digest(items, table)


def tensors(**changes):
    inputs = torch.arange(12.0).reshape(3, 4)
    return TensorDataset(changes.get("inputs", inputs), torch.tensor([0, 1, 0]))


def test_it_fits_mlflow_and_repeats():
    assert len(digest(tensors())) == 36
    assert digest(tensors()) == digest(tensors())


def test_any_value_the_order_a_label_and_an_id_change_it():
    changed = torch.arange(12.0).reshape(3, 4)
    changed[2, 3] += 1e-6 * 11
    others = [
        digest(tensors(inputs=changed)),
        digest(tensors(inputs=torch.arange(12.0, dtype=torch.float64).reshape(3, 4))),
        digest([tensors()[i] for i in (1, 0, 2)]),
        digest(tensors(), TABLE.with_columns(label=pl.Series([0, 1, 1]))),
        digest(tensors(), TABLE.with_columns(example_id=pl.Series(["a", "b", "d"]))),
    ]
    assert len({digest(tensors()), *others}) == len(others) + 1


def test_neither_further_columns_nor_the_labels_type_nor_an_empty_label_change_it():
    shown = TABLE.with_columns(pl.col("label").cast(pl.String), stage=pl.lit("training"))
    assert digest(tensors(), shown) == digest(tensors())
    bare = TABLE.drop("label")
    assert digest(tensors(), bare) == digest(
        tensors(), bare.with_columns(label=pl.lit(None, pl.String))
    )


@dataclass
class Pair:
    left: object
    right: object


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12", 12),
        (1, True),
        (1, 1.0),
        (("ab", "c"), ("a", "bc")),
        ((1, (2, 3)), ((1, 2), 3)),
        ({"x": 1}, {"y": 1}),
        (Pair(1, 2), Pair(2, 1)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)),
        (Image.new("L", (2, 3)), Image.new("L", (3, 2))),
        (b"\0", b"\0\0"),
        (None, "None"),
        (torch.zeros(0, 2), torch.zeros(0, 3)),
    ],
)
def test_values_that_differ_digest_differently(one, other):
    table = pl.DataFrame({"example_id": ["a"]})
    assert digest([one], table) != digest([other], table)
    assert digest([one], table).startswith("st1-")


def test_memory_layout_and_the_order_of_a_mapping_do_not_count():
    matrix = torch.arange(6.0).reshape(2, 3)
    table = pl.DataFrame({"example_id": ["a"]})
    assert digest([matrix.T.contiguous()], table) == digest([matrix.T], table)
    assert digest([{"x": 1, "y": 2}], table) == digest([{"y": 2, "x": 1}], table)


class Augmented:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.random.default_rng().random(4)


@pytest.mark.parametrize("items", [Augmented(), [object()] * 3])
def test_content_that_cannot_be_digested_is_said_and_compared_with_its_like_only(items, caplog):
    with caplog.at_level(logging.WARNING):
        table_alone = digest(items)
    assert "ids and labels alone" in caplog.text
    assert len(table_alone) == 36
    assert same_data(table_alone, digest(items)) is True
    assert same_data(table_alone, digest(tensors())) is None
    assert same_data(digest(tensors()), table_alone) is None


def test_noise_that_begins_further_down_is_noticed(caplog):
    class Late(Augmented):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return super().__getitem__(index) if index > 990 else np.zeros(4)

    table = pl.DataFrame({"example_id": [str(i) for i in range(1000)]})
    assert digest(Late(), table).startswith("st1t-")
    assert "differ from one reading to the next" in caplog.text


def test_only_our_own_digests_are_compared():
    assert same_data("st1-1", "st1-1") is True
    assert same_data("st1-1", "st1-2") is False
    assert same_data("12345678", "12345678") is None
    assert same_data(None, "st1-1") is None


@pytest.mark.parametrize("labels", [[0, 1, 0], [0.0, 1.0, 0.0], [False, True, False]])
def test_labels_and_ids_are_taken_as_an_audit_writes_them(labels):
    raw = pl.DataFrame({"example_id": [1, 2, 3], "label": labels})
    checked = pl.DataFrame({"example_id": ["1", "2", "3"], "label": ["0", "1", "0"]})
    assert digest(tensors(), raw) == digest(tensors(), checked)


def test_a_table_has_another_digest_for_any_column_value_or_order():
    table = TABLE.with_columns(stage=pl.Series([["a"], ["a", "b"], ["b"]]))
    others = [
        TABLE,
        table.with_columns(stage=pl.Series([["a"], ["a"], ["b"]])),
        table.rename({"stage": "slice"}),
        table.with_columns(pl.col("label").cast(pl.String)),
        table.reverse(),
    ]
    assert table_digest(table) == table_digest(table.clone())
    assert len({table_digest(one) for one in [table, *others]}) == len(others) + 1


INPUTS = torch.arange(12.0).reshape(3, 4)
EXAMPLES_TABLE = pl.DataFrame({"example_id": ["a", "b", "c"], "label": ["0", "1", "0"]})


class Counting:
    """Counts how often each example is read."""

    def __init__(self, items):
        self.items, self.reads = items, [0] * len(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.items[index]


def digests(items, table=EXAMPLES_TABLE, **options):
    return ExampleDigests.validate(digest_examples(items, table, **options)[1])


def test_it_is_the_datas_digest_and_one_for_every_example_from_the_same_reading():
    items = Counting(TensorDataset(INPUTS, torch.tensor([0, 1, 0])))
    digest, table = digest_examples(items, EXAMPLES_TABLE)
    # Four readings more say whether they stay the same.
    assert items.reads == [5, 5, 5]
    assert digest == data_digest(items.items, EXAMPLES_TABLE)
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
    one, seen = EXAMPLES_TABLE.head(1), []
    found = digests([item], one, each=seen.append)
    assert seen == [target]
    assert found["input_digest"].equals(digests([(inputs, 0)], one)["input_digest"])


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
    table = digests(TensorDataset(INPUTS), EXAMPLES_TABLE.drop("label"))
    assert table["label"].is_null().all()
    assert table["input_digest"].null_count() == 0


def test_an_example_of_an_unknown_type_far_down_leaves_no_half_table():
    table = digests([(1, 2), (3, 4), (object(), 5)])
    assert table["input_digest"].is_null().all()
