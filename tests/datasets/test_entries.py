"""Entries of the catalog as arguments of a task, in this process and in others."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset

from sourcetrace.audit.identity.data_digest import task_digests
from sourcetrace.datasets import entries
from sourcetrace.datasets.entries import open_catalog, with_entries
from sourcetrace.datasets.task import TaskDataset
from sourcetrace.errors import InputError
from sourcetrace.tasks.loading import load_task

TABLE = pl.DataFrame(
    {"example_id": ["a", "b"], "pixels": [[0.0] * 64, [1.0] * 64], "label": [3, 4]},
    schema_overrides={"pixels": pl.Array(pl.Float32, 64)},
)
DIGITS = "sourcetrace.tasks.digits.DigitsTask"


def no_fours(table):
    """A validator of the catalog."""
    if (table["label"] == 4).any():
        raise ValueError("there is a four")
    return table.with_columns(label=pl.col("label") + 1)


@pytest.fixture(autouse=True)
def _no_catalog_left(monkeypatch):
    monkeypatch.setattr(entries._Open, "catalog", None)


@pytest.fixture
def catalog(tmp_path):
    TABLE.write_parquet(tmp_path / "scans.parquet")
    file = {"type": "polars.EagerPolarsDataset", "file_format": "parquet"}
    made = DataCatalog.from_config(
        {
            "scans": {**file, "filepath": str(tmp_path / "scans.parquet")},
            "lost": {**file, "filepath": str(tmp_path / "lost.parquet")},
            "checked": {
                **file,
                "filepath": str(tmp_path / "scans.parquet"),
                "validator": "tests.datasets.test_entries.no_fours",
            },
        }
    )
    open_catalog(made)
    return made


def specification(entry="scans"):
    return {
        "class": DIGITS,
        "arguments": {"training_set": {"catalog": entry}, "query_set": {"catalog": "scans"}},
    }


def test_any_task_may_take_what_an_entry_holds(catalog):
    task = TaskDataset(specification()).load()
    assert task.train_table()["label"].to_list() == [3, 4]


def test_the_datas_digest_is_that_of_the_examples_wherever_they_lie(catalog, tmp_path):
    path = str(tmp_path / "scans.parquet")
    by_path = load_task({"class": DIGITS, "arguments": {"training_set": path, "query_set": path}})
    assert task_digests(TaskDataset(specification()).load()) == task_digests(by_path)
    TABLE.with_columns(label=pl.Series([3, 5])).write_parquet(path)
    assert task_digests(TaskDataset(specification()).load()) != task_digests(by_path)


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """A user's task that takes its data by an adapter."""
    (tmp_path / "adapted_task.py").write_text(
        "from sourcetrace.tasks import ClassificationTask\n"
        "from sourcetrace.tasks.data import TableData\n\n"
        "class Adapted(TableData, ClassificationTask):\n"
        "    def build_model(self):\n        return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "adapted_task.Adapted"
    sys.modules.pop("adapted_task", None)


def test_conditions_beside_an_entry_are_the_adapters(adapted):
    rows = pl.DataFrame({"x": [1.0, 2.0], "label": [0, 1], "split": ["train", "test"]})
    open_catalog(DataCatalog({"rows": MemoryDataset(rows)}))
    arguments = {
        "train": {"catalog": "rows", "where": {"split": "train"}},
        "queries": {"catalog": "rows", "where": {"split": ["test"]}},
        "numeric": ["x"],
    }
    task = TaskDataset({"class": adapted, "arguments": arguments}).load()
    assert task.train_table()["x"].to_list() == [1.0]
    assert task.query_table()["x"].to_list() == [2.0]
    with pytest.raises(InputError, match="the task was made without one"):
        load_task({"class": adapted, "arguments": arguments})


def labels_of(specification):
    return load_task(specification).train_table()["label"].to_list()


def test_another_process_gets_the_entry_too(catalog):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(labels_of, with_entries(specification())).result() == [3, 4]


def test_an_entrys_validator_has_its_say_in_every_process(catalog, tmp_path):
    with pytest.raises(InputError, match=r"(?s)arguments.training_set.*there is a four"):
        load_task(with_entries(specification("checked")))
    TABLE.with_columns(label=pl.lit(3)).write_parquet(tmp_path / "scans.parquet")
    assert TaskDataset(specification("checked")).load().train_table()["label"][0] == 4
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(labels_of, with_entries(specification("checked"))).result() == [4, 4]


def test_an_entry_that_is_not_there_is_refused_by_name(catalog):
    with pytest.raises(InputError, match=r"training_set names the entry 'scan' of the catalog"):
        with_entries(specification("scan"))
    with pytest.raises(InputError, match=r"training_set: the catalog's entry cannot be loaded"):
        load_task(with_entries(specification("lost")))


def test_what_names_no_entry_is_left_as_it_is():
    given = {"class": "a.B", "arguments": {"year": 2026, "where": {"column": {"catalog": "toys"}}}}
    assert with_entries(given) == given
    assert with_entries({"class": "a.B"}) == {"class": "a.B"}


def test_what_is_to_be_known_of_the_data_is_logged_once_a_run(adapted, caplog, tmp_path):
    path = str(tmp_path / "rows.parquet")
    pl.DataFrame({"x": [1.0, 1.0], "label": [0, 1]}).write_parquet(path)
    arguments = {"train": path, "queries": path, "numeric": ["x"]}
    dataset = TaskDataset({"class": adapted, "arguments": arguments})
    dataset.load()
    dataset.load()
    assert caplog.text.count("train: 1 example has the inputs of an earlier one") == 1
