"""Tables, tensors and caches come back as they were saved."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest
import torch
from kedro.io import DataCatalog, DatasetError
from kedro.validation import DataValidationError
from polars.testing import assert_frame_equal

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.datasets import (
    CurvatureDataset,
    GradientCacheDataset,
    ShardedParquetDataset,
    StreamedParquetDataset,
)
from sourcetrace.errors import InputError
from sourcetrace.work.unit import KeptFile


def test_a_table_comes_back_in_the_order_of_its_saves_without_the_run_before(tmp_path):
    parts = [pl.DataFrame({"example_id": [f"{i}-{j}" for j in range(3)]}) for i in range(12)]
    before = ShardedParquetDataset(path=str(tmp_path))
    for part in parts:
        before.save(part)
    assert_frame_equal(ShardedParquetDataset(path=str(tmp_path)).load(), pl.concat(parts))
    after = ShardedParquetDataset(path=str(tmp_path))
    after.save(parts[5])
    assert_frame_equal(after.load(), parts[5])
    assert [file.name for file in tmp_path.iterdir()] == ["part-000000.parquet"]


def test_a_lazy_table_is_read_by_the_column(tmp_path):
    dataset = ShardedParquetDataset(path=str(tmp_path), lazy=True)
    for number in (0, 1):
        dataset.save(pl.DataFrame({"example_id": [f"{number}"], "harm": [0.5]}))
    found = dataset.load().select("example_id")
    assert "PROJECT 1/2 COLUMNS" in found.explain()
    assert found.collect()["example_id"].to_list() == ["0", "1"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_part_that_a_unit_keeps_is_linked_where_that_can_be(tmp_path, monkeypatch, linked):
    """Checked and digested when it was written, it is not read again."""
    monkeypatch.chdir(tmp_path)
    parts = [pl.DataFrame({"segment": [number]}) for number in range(3)]
    for number, part in enumerate(parts):
        part.write_parquet(f"{number}.parquet")
    kept = [KeptFile(Path(f"{number}.parquet"), f"digest {number}") for number in range(3)]
    inner = {"type": "sourcetrace.datasets.ShardedParquetDataset", "path": "table"}
    entry = {"type": "sourcetrace.datasets.AuditedDataset", "stage": "a", "dataset": inner}
    validator = {"class": "sourcetrace.schemas.QueryContributions", "on": ["save"]}
    catalog = DataCatalog.from_config({"table": entry | {"validator": validator}})
    if not linked:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError))
    for file in kept:
        catalog.save("table", file)
    catalog.confirm("table")
    files = sorted((tmp_path / "table").iterdir())
    assert [file.samefile(one.path) for file, one in zip(files, kept, strict=True)] == 3 * [linked]
    assert_frame_equal(pl.concat(map(pl.read_parquet, files)), pl.concat(parts))
    record = json.loads((tmp_path / "table.made_of.json").read_text())
    assert record["files"] == {file.name: f"digest {n}" for n, file in enumerate(files)}
    # Another run of the process begins anew.
    catalog.save("table", kept[2])
    catalog.confirm("table")
    record = json.loads((tmp_path / "table.made_of.json").read_text())
    assert record["files"] == {"part-000000.parquet": "digest 2"}
    with pytest.raises(DataValidationError):  # what is not a unit's is checked here
        catalog.save("table", parts[0])


def test_a_stream_comes_back_in_its_order_and_is_read_when_it_is_asked_for(tmp_path):
    dataset = StreamedParquetDataset(filepath=str(tmp_path / "run[1]" / "table.parquet"))
    parts = [pl.DataFrame({"number": [n, n + 1]}) for n in (4, 2, 8)]
    for number, part in enumerate(parts):
        part.write_parquet(tmp_path / f"{number}.parquet")
    files = [tmp_path / f"{number}.parquet" for number in range(3)]
    for data in (pl.scan_parquet(files), pl.concat(parts)):
        dataset.save(data)
        assert_frame_equal(dataset.load().collect(), pl.concat(parts))


def test_a_table_that_was_never_saved_is_an_error(tmp_path):
    with pytest.raises(DatasetError):
        ShardedParquetDataset(path=str(tmp_path)).load()


def test_curvature_comes_back_for_layers_with_any_name(tmp_path):
    def block():
        return CurvatureBlock(EigenBasis(torch.rand(1, 2, 2), torch.rand(1, 3, 3)), torch.rand(1))

    segments = [{"": block(), "a.b/c": block()} for _ in range(11)]
    adaptive = replace(block(), preconditioner=torch.rand(1, 3, 2))
    segments[-1]["adaptive"] = adaptive
    dataset = CurvatureDataset(filepath=str(tmp_path / "curvature.safetensors"))
    dataset.save(segments)
    loaded = dataset.load()
    for before, after in zip(segments, loaded, strict=True):
        assert after.keys() == before.keys()
        for name, expected in before.items():
            assert torch.equal(after[name].eigenvalues, expected.eigenvalues)
            assert torch.equal(after[name].basis.inputs, expected.basis.inputs)
            assert torch.equal(after[name].basis.outputs, expected.basis.outputs)
        assert after[""].preconditioner is None
    assert torch.equal(loaded[-1]["adaptive"].preconditioner, adaptive.preconditioner)


@pytest.mark.parametrize("basis", [EigenBasis(None, torch.rand(1, 3, 3)), EigenBasis(None, None)])
def test_a_basis_that_is_the_identity_comes_back_as_such(tmp_path, basis):
    dataset = CurvatureDataset(filepath=str(tmp_path / "curvature.safetensors"))
    block = CurvatureBlock(basis, torch.rand(1, 3, 2))
    dataset.save([{"embedding": block}])
    (loaded,) = dataset.load()
    assert loaded["embedding"].basis.inputs is None
    assert (loaded["embedding"].basis.outputs is None) == (basis.outputs is None)
    gradients = torch.rand(4, 1, 3, 2)
    assert torch.equal(loaded["embedding"].basis.rotate(gradients), basis.rotate(gradients))


@pytest.mark.parametrize(
    ("policy", "same_run", "later_run"),
    [("memory", True, False), ("disk", True, True), ("recompute", False, False)],
)
def test_the_cache_keeps_what_its_policy_says(tmp_path, policy, same_run, later_run):
    cache = GradientCacheDataset(path=str(tmp_path)).load()
    cache.open("these inputs")
    cache.restart(policy)
    cache.put("point/0-2", {"both/layer/inputs": torch.arange(3)})
    assert (cache.get("point/0-2") is not None) == same_run
    later = GradientCacheDataset(path=str(tmp_path)).load()
    later.open("these inputs")
    assert (later.get("point/0-2") is not None) == later_run
    later.open("other inputs")
    assert later.get("point/0-2") is None
    cache.restart("recompute")
    assert cache.get("point/0-2") is None


def test_a_block_on_disk_that_is_not_the_one_written_is_refused(tmp_path):
    cache = GradientCacheDataset(path=str(tmp_path)).load()
    cache.open("these inputs")
    cache.restart("disk")
    for number in range(2):
        cache.put(f"point/{number}", {"layer": torch.full((40,), float(number))})
    one, other = sorted(tmp_path.rglob("*.safetensors"))
    good, exchanged = one.read_bytes(), other.read_bytes()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    for bad in (bytes(flipped), good[:-8], exchanged):
        one.write_bytes(bad)
        with pytest.raises(InputError, match=rf"{one.name} is damaged.*gradient_extraction"):
            [cache.get(f"point/{number}") for number in range(2)]
    one.write_bytes(good)
    assert cache.get("point/1")["layer"][0] == 1


def test_a_cache_deletes_what_it_made_and_nothing_else(tmp_path):
    """Its folder may be one in which other things lie, by a slip in a catalog."""
    cache = GradientCacheDataset(path=str(tmp_path)).load()
    cache.open("these inputs")
    cache.restart("disk")
    cache.put("point/0-2", {"both/layer/inputs": torch.arange(3)})
    others = [tmp_path / "thesis/chapter.tex", tmp_path / "0123456789abcdef/model.safetensors"]
    for file in others:
        file.parent.mkdir()
        file.write_text("years of work")
    GradientCacheDataset(path=str(tmp_path)).load().restart("disk")
    assert sorted(tmp_path.rglob("*.*")) == sorted(others)
