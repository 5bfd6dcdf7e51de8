"""What every adapter does with a side's rows, shown by the adapter of tables."""

import polars as pl
import pytest
import torch

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.errors import InputError
from sourcetrace.tasks import (
    BinaryTask,
    ClassificationTask,
    MultiLabelTask,
    RegressionTask,
    TaskBase,
)
from sourcetrace.tasks.data import TableData
from tests.tasks.data.checked import checked_tables

TRAIN = pl.DataFrame({"x": [1.0, 2.0, 3.0], "label": ["no", "yes", "no"]})
QUERIES = pl.DataFrame({"x": [9.0], "label": ["yes"]})


class Classes(TableData, ClassificationTask):
    pass


class Numbers(TableData, RegressionTask):
    pass


def made(task=Classes, train=TRAIN, queries=QUERIES, **more):
    return task(**{"train": train, "queries": queries, "numeric": ["x"], **more})


def test_a_task_of_an_adapter_passes_the_checks_of_the_ingest():
    task = made()
    training, _ = checked_tables(task)
    assert training["label"].to_list() == ["no", "yes", "no"]
    assert task.train_examples()[1][1] == 1
    # The digest is the data's own: a changed value is noticed, another column is not the data's.
    other = made(train=TRAIN.with_columns(x=pl.Series([1.0, 2.0, 3.5])))
    assert task_digests(other)["training"]["digest"] != task_digests(task)["training"]["digest"]


def test_the_order_of_the_bases_does_not_matter():
    class Swapped(ClassificationTask, TableData):
        pass

    one, other = made(), made(Swapped)
    assert task_digests(one) == task_digests(other)
    assert one.label_names == other.label_names == ["no", "yes"]


def test_names_are_a_column_or_the_inputs_digest_whatever_the_order_and_the_label():
    train = TRAIN.with_columns(example_id=pl.Series(["a", "b", "c"]))
    assert made(train=train).train_table()["example_id"].to_list() == ["a", "b", "c"]
    named = TRAIN.with_columns(customer=pl.Series([4, 5, 6]))
    queries = QUERIES.with_columns(customer=pl.Series([7]))
    task = made(train=named, queries=queries, example_id="customer")
    assert task.train_table()["example_id"].to_list() == ["4", "5", "6"]
    first = made().train_table()["example_id"].to_list()
    turned = made(train=TRAIN.reverse()).train_table()["example_id"].to_list()
    assert turned == first[::-1]
    relabelled = TRAIN.with_columns(label=pl.Series(["yes", "no", "no"]))
    assert made(train=relabelled).train_table()["example_id"].to_list() == first


def test_what_is_to_be_known_of_the_data_is_said_by_name():
    train = pl.DataFrame(
        {
            "example_id": ["e\u0301", "\u00e9", "b ", "b", "c"],
            "x": [1, 1, 2, 2, 9],
            "label": ["no", "yes", "no", "no", None],
        }
    )
    queries = QUERIES.vstack(pl.DataFrame({"x": [2.0], "label": ["no"]}))
    notes = made(train=train, queries=queries).notes
    assert len(notes) == 4
    assert notes[0].endswith("1 row of 5 left out, no label in 'label': 'c'")
    assert "by the form of Unicode alone" in notes[1]
    assert "'b' and 'b '" in notes[1]
    assert "2 examples have the inputs of an earlier one, 1 of them with another label" in notes[2]
    assert "task.arguments.queries: 1 query has the inputs of a training example" in notes[3]
    assert made().notes == []


def test_duplicates_without_names_get_numbers():
    train = pl.DataFrame({"x": [1.0, 1.0, 2.0], "label": ["no", "yes", "no"]})
    names = made(train=train).train_table()["example_id"]
    assert names[1] == f"{names[0]}-2"
    assert names.n_unique() == 3


@pytest.mark.parametrize(
    ("labels", "more", "expected", "shown"),
    [
        ([1, 0, 2], {}, [1, 0, 2], ["1", "0", "2"]),
        ([1.0, 0.0, 2.0], {}, [1, 0, 2], ["1", "0", "2"]),
        ([True, False, True], {}, [1, 0, 1], ["1", "0", "1"]),
        (["b", "a", "c"], {}, [1, 0, 2], ["b", "a", "c"]),
        (["b", "a", "c"], {"label_names": ["c", "b", "a"]}, [1, 2, 0], ["b", "a", "c"]),
        ([1, 0, 2], {"label_names": ["x", "y", "z"]}, [1, 0, 2], ["y", "x", "z"]),
        (["1", "0", "10"], {"label_names": ["0", "1", "10"]}, [1, 0, 2], ["1", "0", "10"]),
    ],
)
def test_classes_are_numbers_or_names_in_the_order_of_the_logits(labels, more, expected, shown):
    train = TRAIN.with_columns(label=pl.Series(labels))
    task = made(train=train, queries=train.head(1), **more)
    assert [int(item[1]) for item in task.train_examples()] == expected
    training, _ = checked_tables(task)
    assert training["label"].to_list() == shown


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (["1", "0", "10"], {}, "numbers written as text"),
        ([0, 1, -1], {}, r"'-1' in 'row 2'; expected numbers from 0"),
        ([0.5, 1.0, 0.0], {}, r"'0.5' in 'row 0'"),
        ([0, 1, 2], {"label_names": ["a", "b"]}, r"'2' in 'row 2'; expected one of 'a', 'b'"),
        (["a", "x", "b"], {"label_names": ["a", "b"]}, r"'x' in 'row 1'"),
        (["a", " ", "b"], {}, "are empty text. Write null"),
        ([[0.5, 0.5], [float("nan"), 1.0], [1.0, 0.0]], {}, "NaN or infinite in 1 row .*'row 1'"),
        ([None, None, None], {}, "every row has no label"),
    ],
)
def test_labels_that_are_no_class_are_refused(labels, more, message):
    with pytest.raises(InputError, match=message):
        made(train=TRAIN.with_columns(label=pl.Series(labels)), **more)


def test_a_query_of_another_class_than_training_had_is_refused():
    with pytest.raises(InputError, match=r"arguments.queries: 'label' is 'maybe' in 'row 0'"):
        made(queries=QUERIES.with_columns(label=pl.lit("maybe")))


def with_class_names(*names, labels=(0, 1, -1)):
    datasets = pytest.importorskip("datasets")
    features = {"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=list(names))}
    given = {"x": [1.0, 2.0, 3.0], "label": list(labels)}
    return datasets.Dataset.from_dict(given, features=datasets.Features(features))


@pytest.mark.parametrize("queries", [("no", "yes"), ("yes", "no")])
@pytest.mark.parametrize(
    ("train", "more"),
    [
        (TRAIN, {}),
        (TRAIN, {"label_names": ["yes", "no"]}),
        (("yes", "no"), {}),
        (("yes", "no"), {"label_names": ["no", "yes"]}),
        (TRAIN.with_columns(label=pl.Series([0, 1, 0])), {"label_names": ["no", "yes"]}),
    ],
)
def test_numbers_that_have_names_are_the_classes_of_these_names(train, more, queries):
    names = [*train, "no"][:2] if isinstance(train, tuple) else ["no", "yes", "no"]
    train = with_class_names(*train) if isinstance(train, tuple) else train
    task = made(train=train, queries=with_class_names(*queries), **more)
    for items, table, expected in (
        (task.train_examples(), task.train_table(), names),
        (task.query_examples(), task.query_table(), list(queries)),
    ):
        assert table["label"].to_list() == expected
        assert [task.label_names[int(item[1])] for item in items] == expected
    assert "1 row of 3 left out, no label" in "".join(task.notes)


def test_numbers_whose_names_are_none_of_the_classes_are_refused():
    with pytest.raises(InputError, match=r"queries: 'label' is 'maybe' in 'row 0'; expected one"):
        made(queries=with_class_names("maybe", "yes"))
    with pytest.raises(InputError, match=r"train: 'label' is 'bad', 'good' in .* 'neg', 'pos'"):
        made(train=with_class_names("bad", "good"), label_names=["neg", "pos"])
    without = TRAIN.with_columns(label=pl.Series([0, 1, 0]))
    with pytest.raises(InputError, match=r"queries: 'label' is 'no', 'yes' .* set label_names"):
        made(train=without, queries=with_class_names("no", "yes"))
    given = with_class_names("no", "yes")
    numbers = made(Numbers, train=given, queries=given)
    assert [float(item[1]) for item in numbers.train_examples()] == [0, 1]


def test_numbers_are_targets_of_a_regression_and_of_other_losses_by_the_columns_type():
    class Own(TableData, TaskBase):
        pass

    train = TRAIN.with_columns(label=pl.Series([1, 2, 4]))
    task = made(Numbers, train=train, queries=train)
    assert torch.stack([item[1] for item in task.train_examples()]).tolist() == [1.0, 2.0, 4.0]
    checked_tables(task)
    assert made(Own, train=train, queries=train).train_examples()[0][1].dtype == torch.int64
    lists = TRAIN.with_columns(label=pl.Series([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    task = made(Own, train=lists, queries=lists)
    assert task.train_examples()[0][1].tolist() == [0.0, 1.0]
    checked_tables(task)
    with pytest.raises(InputError, match="lists of as many numbers each"):
        made(Own, train=lists.with_columns(label=pl.Series([[0.0], [1.0, 2.0], [1.0]])))
    with pytest.raises(InputError, match="expected numbers"):
        made(Numbers)


@pytest.mark.parametrize(
    ("base", "labels", "targets", "shown"),
    [
        (BinaryTask, ["no", "yes", "no"], [0, 1, 0], ["no", "yes", "no"]),
        (BinaryTask, [0, 1, 1], [0, 1, 1], ["0", "1", "1"]),
        (BinaryTask, [0.0, 1.0, 1.0], [0, 1, 1], ["0", "1", "1"]),
        (MultiLabelTask, [[1, 0], [0, 0], [1, 1]], [[1, 0], [0, 0], [1, 1]], None),
        (
            ClassificationTask,
            [[0.1, 0.9], [1, 0], [0.5, 0.5]],
            [[0.1, 0.9], [1, 0], [0.5, 0.5]],
            ["1", "0", "0"],
        ),
        (RegressionTask, [[0.1, 2.0], [1, 0], [5, 5]], [[0.1, 2.0], [1, 0], [5, 5]], None),
    ],
)
def test_labels_are_those_that_the_losses_take(base, labels, targets, shown):
    class Own(TableData, base):
        pass

    train = TRAIN.with_columns(label=pl.Series(labels, strict=False))
    task = made(Own, train=train, queries=train)
    batch = task.collate([task.train_examples()[i] for i in range(3)])
    assert torch.allclose(batch[1].double(), torch.tensor(targets).double())
    shape = (3, 2) if base is not BinaryTask else (3,)
    loss = task.train_loss(torch.zeros(shape), batch)
    assert loss.shape == (3,)
    training, _ = checked_tables(task)
    if shown is not None:
        assert training["label"].to_list() == shown


def test_names_that_the_users_class_has_are_the_order_of_the_logits():
    class Named(Classes):
        label_names = ("yes", "no")

    assert [int(item[1]) for item in made(Named).train_examples()] == [1, 0, 1]
    assert [int(item[1]) for item in made(Named, label_names=["no", "yes"]).train_examples()] == [
        0,
        1,
        0,
    ]


def test_without_a_label_items_are_inputs_alone():
    class Own(TableData, TaskBase):
        pass

    task = made(Own, label=None)
    assert [len(item) for item in task.train_examples()] == [1, 1, 1]
    assert "label" not in task.train_table().columns


def test_stages_and_shown_columns_are_in_the_table():
    train = TRAIN.with_columns(phase=pl.Series(["warm", "tune", "tune"]), note=pl.lit("n"))
    task = made(train=train, stage="phase", show=["note", "note", "x", "lost"])
    assert task.train_table().columns == ["example_id", "label", "stage", "note", "x"]
    assert task.query_table().columns == ["example_id", "label", "x"]


def test_an_argument_of_another_name_or_kind_is_refused_by_name():
    with pytest.raises(InputError, match=r"task\.arguments\.numerc: .* Did you mean numeric\?"):
        made(numerc=["x"])
    with pytest.raises(InputError, match=r"task\.arguments\.train: Field required"):
        Classes(queries=QUERIES, numeric=["x"])
    with pytest.raises(InputError, match=r"task\.arguments\.show: Input should be a valid tuple"):
        made(show="x")
