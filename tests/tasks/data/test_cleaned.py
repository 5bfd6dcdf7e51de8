"""A data task as people decided its data is to be, and with other labels for a retraining."""

import polars as pl
import pytest
import torch

from sourcetrace.errors import InputError
from sourcetrace.quoting import quoted
from sourcetrace.tasks import ClassificationTask, RegressionTask
from sourcetrace.tasks.data import TableData

ROWS = pl.DataFrame(
    {
        "example_id": ["a", "b", "c", "d"],
        "size": [1.0, 2.0, 3.0, 4.0],
        "label": ["cat", "dog", "cat", "dog"],
    }
)
MANIFEST = pl.DataFrame(
    {
        "example_id": ["a", "b", "c", "gone"],
        "index": [0, 1, 2, None],
        "label": ["dog", "dog", "cat", "cat"],
        "keep": [True, False, True, False],
        "decision": ["relabel", "remove", None, "remove"],
    }
)


class Pets(TableData, ClassificationTask):
    pass


class Weights(TableData, RegressionTask):
    pass


def made(kind=Pets, rows=ROWS, **arguments):
    return kind(train=rows, queries=rows, numeric=["size"], **arguments)


def content(task):
    items = [(float(inputs), float(target)) for inputs, target in task.train_examples()]
    return task.train_table()["example_id"].to_list(), task.train_table()["label"].to_list(), items


def test_the_manifest_leaves_out_and_relabels_by_id():
    task = made(cleaned=MANIFEST)
    assert content(task) == (
        ["a", "c", "d"],
        ["dog", "cat", "dog"],
        [(1.0, 1.0), (3.0, 0.0), (4.0, 1.0)],
    )
    assert task.query_table().height == 4
    note = "task.arguments.cleaned: 1 training example left out, 1 with another label"
    assert note in task.notes


@pytest.mark.parametrize("kind", [".parquet", ".csv"])
def test_it_is_read_from_a_file(tmp_path, kind):
    path = tmp_path / f"cleaned{kind}"
    write = MANIFEST.write_parquet if kind == ".parquet" else MANIFEST.write_csv
    write(path)
    assert content(made(cleaned=str(path))) == content(made(cleaned=MANIFEST))


def test_a_spreadsheets_quotes_are_taken_away_and_a_programs_are_names(tmp_path):
    names = pl.Series("example_id", ["=a", "'=b", "-3", "'d"])
    rows = ROWS.with_columns(names, label=pl.Series(["+cat", "'-dog"] * 2))
    manifest = rows.select("example_id", "label", keep=pl.Series([True, False, True, True]))
    expected = content(made(rows=rows, cleaned=manifest))
    manifest.write_parquet(tmp_path / "cleaned.parquet")
    manifest.with_columns(quoted(pl.col(pl.String))).write_csv(tmp_path / "cleaned.csv")
    assert expected[:2] == (["=a", "-3", "'d"], ["+cat", "+cat", "'-dog"])
    for name in ("cleaned.parquet", "cleaned.csv"):
        assert content(made(rows=rows, cleaned=str(tmp_path / name))) == expected


def test_names_that_are_digests_of_the_inputs_are_those_of_before():
    rows = pl.concat([ROWS, ROWS.head(1)]).drop("example_id")
    names = made(rows=rows).train_table()["example_id"]
    assert names[4] == f"{names[0]}-2"
    manifest = pl.DataFrame({"example_id": names, "label": None, "keep": [True] * 4 + [False]})
    task = made(rows=rows, cleaned=manifest)
    assert task.train_table()["example_id"].to_list() == names.head(4).to_list()


def test_copies_keep_their_names_when_the_first_goes():
    rows = pl.concat([ROWS, ROWS.head(1)]).drop("example_id")
    names = made(rows=rows).train_table()["example_id"]
    manifest = pl.DataFrame({"example_id": names, "label": None, "keep": [False] + [True] * 4})
    task = made(rows=rows, cleaned=manifest)
    assert task.train_table()["example_id"].to_list() == names.tail(4).to_list()


def test_a_spreadsheets_manifest_is_read_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / "cleaned.csv"
    path.write_text("example_id,label,keep\na,dog,TRUE\nb,dog,False\nc,cat,TRUE\n")
    assert content(made(cleaned=str(path))) == content(made(cleaned=MANIFEST))
    for change, said in (
        (pl.lit("perhaps").alias("keep"), "with true or false in 'keep'"),
        (pl.lit("a").alias("example_id"), "expected one row an example"),
        (pl.col("example_id") + "x", "names none of the training examples"),
        (pl.lit("bird").alias("label"), "label of example 'a' is 'bird'; expected one of 'cat', '"),
    ):
        with pytest.raises(InputError, match=said):
            made(cleaned=MANIFEST.with_columns(change))


@pytest.mark.parametrize(
    ("labels", "new", "expected"),
    [([0, 1, 0, 1], "1", 1), ([False, True] * 2, "1", 1), ([0, 1, 0, 1], "0.5", None)],
)
def test_a_new_number_is_one_of_the_columns_kind(labels, new, expected):
    for kind in (Pets, Weights):
        task = made(kind, ROWS.with_columns(label=pl.Series(labels)))
        if expected is None:
            with pytest.raises(InputError, match=r"label of example 'a' is '0.5'; expected int"):
                task.relabelled({0: new})
        else:
            other = task.relabelled({0: new, 1: "0"})
            assert [target for _, target in content(other)[2]] == [1, 0, 0, 1]
            assert list(map(int, content(other)[1])) == [1, 0, 0, 1]


def test_a_relabelled_task_is_another_one():
    task = made()
    other = task.relabelled({0: "dog", 3: "cat"})
    assert content(other)[1:] == (
        ["dog", "dog", "cat", "cat"],
        [(1.0, 1.0), (2.0, 1.0), (3.0, 0.0), (4.0, 0.0)],
    )
    assert content(task)[1] == ROWS["label"].to_list()
    weights = made(Weights, ROWS.with_columns(label=pl.col("size") / 2)).relabelled({1: "-7.25"})
    assert content(weights)[2][1] == (2.0, -7.25)
    assert next(iter(weights.train_examples()))[1].dtype == torch.float32


def test_what_has_no_label_cannot_be_relabelled():
    with pytest.raises(InputError, match="Only examples with one label each can be relabelled"):
        made(rows=ROWS.drop("label"), label=None).relabelled({0: "dog"})


def test_held_out_examples_are_read_where_they_are_named():
    assert made().holdout_examples() is None
    task = made(holdout=ROWS.head(2))
    assert task.holdout_table()["example_id"].to_list() == ["a", "b"]
    assert len(task.holdout_examples()) == 2
