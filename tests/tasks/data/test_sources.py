"""Every form of a source gives the same rows, and what is wrong is named."""

import json

import polars as pl
import pytest

from sourcetrace.errors import InputError
from sourcetrace.tasks.data.sources import ROW, Source

TABLE = pl.DataFrame(
    {
        "example_id": ["007", "008", "009"],
        "text": ["a", "b", "c"],
        "label": [0, 1, 0],
        "split": ["train", "test", "train"],
    }
)


def rows_of(given, columns=("text", "label"), **more):
    source = Source.of(given, "task.arguments.train")
    return source.rows(columns, optional=["example_id"], text=["example_id"], **more)


def saved(folder, **more):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "example_id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "split": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict(TABLE.to_dict(as_series=False), features=features)
    return made, lambda: made.save_to_disk(str(folder))


@pytest.fixture
def written(tmp_path):
    TABLE.write_parquet(tmp_path / "rows.parquet")
    TABLE.write_csv(tmp_path / "rows.csv")
    TABLE.write_csv(tmp_path / "rows.tsv", separator="\t")
    TABLE.write_ndjson(tmp_path / "rows.jsonl")
    TABLE.write_ipc(tmp_path / "rows.arrow")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["rows.parquet", "rows.csv", "rows.tsv", "rows.jsonl", "rows.arrow"]
)
def test_files_give_the_rows_in_their_order_and_ids_stay_text(written, name):
    expected = TABLE.select("text", "label", "example_id")
    found = rows_of(str(written / name))
    assert found.table.drop(ROW).equals(expected)
    some = rows_of({"path": str(written / name), "where": {"split": "train"}})
    assert some.table["example_id"].to_list() == ["007", "009"]
    assert some.table[ROW].to_list() == [0, 2]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_name_with_brackets_is_a_name(tmp_path, suffix):
    write = {".csv": "write_csv", ".parquet": "write_parquet", ".jsonl": "write_ndjson"}[suffix]
    getattr(TABLE, write)(tmp_path / f"rows[1]{suffix}")
    getattr(TABLE.head(1), write)(tmp_path / f"rows1{suffix}")
    assert rows_of(tmp_path / f"rows[1]{suffix}").table.height == 3


def test_tables_in_memory_are_sources():
    for data in (TABLE, TABLE.lazy(), TABLE.to_pandas()):
        assert rows_of(data).table["text"].to_list() == ["a", "b", "c"]
        some = rows_of({"data": data, "where": {"label": [1], "split": ["test", "train"]}})
        assert some.table["text"].to_list() == ["b"]


def test_a_data_set_on_disk_is_a_source_whichever_rows_of_it_were_saved(tmp_path):
    made, save = saved(tmp_path / "whole")
    save()
    found = rows_of(tmp_path / "whole")
    assert found.table.drop(ROW).equals(TABLE.select("text", "label", "example_id"))
    assert found.class_names == {"label": ("bad", "good")}
    made.select([2, 0]).save_to_disk(str(tmp_path / "some"))
    assert rows_of(tmp_path / "some").table["text"].to_list() == ["c", "a"]
    # In memory, as an entry of the catalog holds it.
    assert rows_of(made.select([2, 0])).table["text"].to_list() == ["c", "a"]


def test_splits_and_data_sets_without_numbers_are_refused_with_what_to_do(tmp_path):
    datasets = pytest.importorskip("datasets")
    made, _ = saved(tmp_path)
    splits = datasets.DatasetDict({"train": made, "test": made})
    splits.save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InputError, match=r"holds the splits test, train\. Name one of them: "):
        rows_of(tmp_path / "splits")
    assert rows_of(tmp_path / "splits/train").table.height == 3
    with pytest.raises(InputError, match=r"DatasetDict of datasets.* one of its splits"):
        rows_of(splits)
    with pytest.raises(InputError, match=r"IterableDataset of datasets.*save_to_disk"):
        rows_of(made.to_iterable_dataset())


def test_a_data_set_whose_state_leads_elsewhere_is_refused(tmp_path):
    _, save = saved(tmp_path / "one")
    save()
    state = tmp_path / "one/state.json"
    content = json.loads(state.read_text())
    content["_data_files"] = [{"filename": "../other/data-00000-of-00001.arrow"}]
    state.write_text(json.dumps(content))
    with pytest.raises(InputError, match="names files that do not lie beside it"):
        rows_of(tmp_path / "one")


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_info.json"])
def test_a_file_of_a_data_set_that_is_a_link_to_elsewhere_is_refused(tmp_path, name):
    _, save = saved(tmp_path / "one")
    save()
    file = tmp_path / "one" / name
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(InputError, match="or are links to elsewhere"):
        rows_of(tmp_path / "one")


def test_without_the_library_a_data_set_says_what_to_install(tmp_path, monkeypatch):
    _, save = saved(tmp_path / "one")
    save()
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        rows_of(tmp_path / "one")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.parquet", "there is no nowhere.parquet"),
        (3, "is a builtins.int; expected a path"),
        ({"path": "rows.csv", "filter": 1}, "has the keys path, filter"),
        ({"where": {"a": 1}}, "has the keys where"),
        ({"path": "rows.csv", "where": ["a"]}, r"where: expected \{column: value\}"),
        ({"catalog": "rows"}, "made without one"),
        ({"path": "rows.csv", "where": {"split": "dev"}}, "has no row where {'split': 'dev'}"),
        ({"path": "rows.csv", "where": {"part": "dev"}}, "has no column 'part'"),
        ({"path": "rows.csv", "where": {"label": "x"}}, "cannot be read"),
        ("rows.txt", "of an unknown format"),
        (".", "is a folder"),
        ("broken.parquet", "cannot be read"),
    ],
)
def test_what_is_no_source_is_refused(written, monkeypatch, given, message):
    monkeypatch.chdir(written)
    (written / "rows.txt").write_text("a")
    (written / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=message):
        rows_of(given)


def test_a_missing_column_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"no column 'body' \(columns: example_id, text"):
        rows_of(TABLE, columns=["body"])


def test_a_misspelt_column_is_refused_with_the_nearest_of_many():
    wide = pl.DataFrame({**{f"f{one}": [1] for one in range(8)}, "outcome": [1]})
    with pytest.raises(InputError, match=r"'outcom' .* and 4 more\)\. Did you mean outcome\? Corr"):
        rows_of(wide, columns=["outcom"])
