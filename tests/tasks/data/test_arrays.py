"""Arrays on disk: their rows, mapped, and nothing that would be executed."""

import numpy as np
import polars as pl
import pytest
import torch

from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask, RegressionTask, TaskBase
from sourcetrace.tasks.data import ArrayData
from tests.tasks.data.checked import checked_tables

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "inputs": RANDOM.normal(size=(6, 2, 3)),
    "label": np.array(["no", "yes", "no", "no", "yes", "yes"]),
    "name": np.array([10, 11, 12, 13, 14, 15]),
    "split": np.array(["train"] * 4 + ["test"] * 2),
}


class Scans(ArrayData, ClassificationTask):
    pass


def save(folder, arrays=ARRAYS):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def sides(source):
    return {side: {"path": source, "where": {"split": part}} for side, part in PARTS}


PARTS = (("train", "train"), ("queries", "test"))


def test_every_form_of_a_source_gives_the_same_examples(tmp_path):
    save(tmp_path / "folder")
    np.savez(tmp_path / "plain.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "small.npz", **ARRAYS)
    tasks = [
        Scans(**sides(str(tmp_path / name)), example_id="name")
        for name in ("folder", "plain.npz", "small.npz")
    ]
    held = {side: {"data": ARRAYS, "where": {"split": part}} for side, part in PARTS}
    tasks.append(Scans(**held, example_id="name"))
    for task in tasks:
        examples = task.query_examples()
        assert [int(item[1]) for item in examples] == [1, 1]
        found = torch.stack([item[0] for item in examples])
        assert np.array_equal(found.numpy(), ARRAYS["inputs"][4:].astype(np.float32))
        assert task.train_table()["example_id"].to_list() == ["10", "11", "12", "13"]
        checked_tables(task)


def test_files_may_be_named_one_by_one(tmp_path):
    save(tmp_path / "all", {"x": ARRAYS["inputs"], "y": ARRAYS["label"]})
    files = {"inputs": str(tmp_path / "all/x.npy"), "label": str(tmp_path / "all/y.npy")}
    task = Scans(train=files, queries=files)
    assert len(task.train_examples()) == 6


def test_rows_stay_on_disk_until_they_are_asked_for(tmp_path):
    folder = save(tmp_path / "all")
    task = Scans(train=str(folder), queries=str(folder))
    assert isinstance(task._arrays["task.arguments.train"], np.memmap)


@pytest.mark.parametrize(
    ("stored", "dtype", "expected"),
    [
        ("float64", None, torch.float32),
        (">f4", None, torch.float32),
        ("uint8", None, torch.int64),
        ("bool", None, torch.int64),
        ("uint8", "float32", torch.float32),
        ("float32", "float64", torch.float64),
    ],
)
def test_inputs_are_of_the_type_that_a_model_takes(stored, dtype, expected):
    arrays = {"inputs": np.arange(4).reshape(4, 1).astype(stored), "label": np.array([0, 1, 0, 1])}
    task = Scans(train={"data": arrays}, queries={"data": arrays}, dtype=dtype)
    assert task.train_examples()[0][0].dtype == expected


def test_targets_may_be_rows_too():
    class Own(ArrayData, TaskBase):
        pass

    arrays = {"inputs": np.zeros((2, 3)), "label": np.array([[0.0, 1.0], [1.0, 0.5]])}
    task = Own(train={"data": arrays}, queries={"data": arrays})
    assert task.train_examples()[1][1].tolist() == [1.0, 0.5]
    checked_tables(task)


def test_without_names_the_digest_of_the_inputs_is_the_name():
    class Own(ArrayData, RegressionTask):
        pass

    arrays = {"inputs": np.array([[1.0], [2.0], [1.0]]), "label": np.array([0.1, 0.2, 0.3])}
    task = Own(train={"data": arrays}, queries={"data": arrays})
    first, other, again = task.train_table()["example_id"]
    assert again == f"{first}-2"
    assert other != first
    assert task.train_table().columns == ["example_id", "label"]
    assert task.train_table()["label"].dtype == pl.Float64


def test_nothing_that_could_be_executed_is_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    folder = save(tmp_path / "all")
    np.save(folder / "inputs.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"inputs\.npy cannot be read.*are pickles"):
        Scans(train=str(folder), queries=str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": None}, r"has no array 'inputs' \(arrays: label"),
        ({"inputs": np.array(["a"] * 6)}, "has <U1 .6. in 'inputs'"),
        ({"inputs": np.array(3.0)}, r"has float64 \[\] in 'inputs'"),
        ({"label": np.array([0, 1])}, r"'label' has the shape \[2\]"),
        ({"label": None}, "has no column 'label'"),
        ({"inputs": np.full((6, 1), np.nan)}, r"NaN or infinite values in 6 rows of 6 \('row 0'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arrays = {name: one for name, one in {**ARRAYS, **change}.items() if one is not None}
    with pytest.raises(InputError, match=message):
        Scans(train={"data": arrays}, queries={"data": arrays})


def test_files_that_are_no_arrays_are_refused(tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    (tmp_path / "two.npz").rename(tmp_path / "two.npy")
    (tmp_path / "empty").mkdir()
    for given, message in (
        ({"inputs": str(tmp_path / "cut.npy")}, "cannot be read"),
        (str(tmp_path / "text.npz"), "cannot be read"),
        ({"inputs": str(tmp_path / "two.npy")}, "holds several arrays"),
        (str(tmp_path / "empty"), "no source of arrays"),
        ("nowhere.npz", "cannot be read"),
        ("nowhere.parquet", "no source of arrays"),
    ):
        with pytest.raises(InputError, match=message):
            Scans(train=given, queries=given)


def test_of_a_packed_file_the_named_arrays_alone_are_read_if_they_fit(tmp_path, monkeypatch):
    path = str(tmp_path / "a.npz")
    unused = np.array([object()], dtype=object)  # reading it fails
    np.savez_compressed(path, **ARRAYS, unused=unused)
    assert len(Scans(**sides(path)).train_table()) == 4
    monkeypatch.setattr("sourcetrace.tasks.data.arrays.free_memory", lambda _: 300)
    with pytest.raises(InputError, match=r"'inputs' in .*a\.npz unpacks to .* are free"):
        Scans(**sides(path))


def test_whole_numbers_beyond_int64_are_refused(tmp_path):
    inputs = np.array([[2**63 + 5], [2**63 - 1]], dtype=np.uint64)
    np.savez(tmp_path / "u.npz", inputs=inputs, label=[0, 1])
    with pytest.raises(
        InputError, match=r"beyond int64, NaN or infinite values in 1 row of 2 \('row 0'\)"
    ):
        Scans(train=str(tmp_path / "u.npz"), queries=str(tmp_path / "u.npz"))
