"""An example that first fails behind the extraction is in nothing that the same run has saved."""

import shutil

import pytest
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner
from kedro_datasets.json import JSONDataset

from sourcetrace.datasets import (
    AuditedDataset,
    CurvatureDataset,
    StreamedParquetDataset,
)
from sourcetrace.errors import InputError
from sourcetrace.hooks.set_aside import SetAsideHook
from sourcetrace.parameters import GradientParameters
from sourcetrace.pipelines.audit import create_stage
from sourcetrace.pipelines.source_scoring.tables import TABLES
from tests.pipelines.shared.test_set_aside import Blobs, checkpoints, prepare  # noqa: F401, fixtures

_STAGES = ("gradient_extraction", "ekfac_fitting", "source_scoring")
_NODES = ("extract_gradients", "list_set_aside", "fit_curvature", "score_examples")


class Breaks:
    """Lets a node's task fail on an example."""

    def __init__(self, task, name):
        self.task, self.name = task, name

    @hook_impl
    def before_node_run(self, node):
        if node.name == self.name:
            self.task.items.raises = (4,)


def count(example_signals):
    return {"examples": example_signals.collect()["example_id"].n_unique()}


def scores(folder):
    shards = "sourcetrace.datasets.ShardedParquetDataset"
    return AuditedDataset({"type": shards, "path": str(folder)}, "source_scoring")


def run(setup, folder, *hooks, names=_NODES):
    """Run the numerical stages, or some of their nodes."""
    stages = create_stage(*_STAGES).filter(node_names=names)
    nodes = [node(lambda: setup, None, "audit_setup", name="set_up"), *stages.nodes]
    pipeline = Pipeline([*nodes, node(count, "example_signals", "counted", name="count")])
    folder.mkdir(exist_ok=True)
    catalog = DataCatalog(
        {
            "example_signals": StreamedParquetDataset(str(folder / "signals.parquet")),
            "content_sketches": StreamedParquetDataset(str(folder / "sketches.parquet")),
            "query_signals": StreamedParquetDataset(str(folder / "queries.parquet")),
            "set_aside": JSONDataset(filepath=str(folder / "set_aside.json")),
            "curvature": CurvatureDataset(str(folder / "curvature.safetensors")),
            "kept_curvature": JSONDataset(filepath=str(folder / "kept.json")),
            **{name: scores(folder / name) for name in TABLES},
            "counted": JSONDataset(filepath=str(folder / "counted.json")),
            "audit_setup": MemoryDataset(copy_mode="assign"),
            "params:gradients": MemoryDataset(GradientParameters(cache="recompute", batch_size=3)),
        }
    )
    manager = _create_hook_manager()
    for one in (SetAsideHook(), *hooks):
        manager.register(one)
    manager.hook.before_pipeline_run(run_params={}, pipeline=pipeline, catalog=catalog)
    SequentialRunner().run(pipeline, catalog, manager)


def files_of(folder):
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*.*")}


@pytest.mark.parametrize("stage", ["fit_curvature", "score_examples"])
def test_the_run_ends_with_what_one_has_that_knew_it(prepare, tmp_path, stage):  # noqa: F811
    task = Blobs(infinite=(7,))
    settings = {"batch_size": 2, "at": "recompute", "unit_seconds": 1e-9}
    run(prepare(task, **settings), tmp_path / "found", Breaks(task, stage))
    (tmp_path / "other").mkdir()
    for name in ("excluded.json", "grid.json"):
        shutil.copy(tmp_path / "cache" / name, tmp_path / "other")
    run(prepare(Blobs(), cache="other", **settings), tmp_path / "known")
    found, known = files_of(tmp_path / "found"), files_of(tmp_path / "known")
    assert found == known
    assert b'"examples": 10' in found["counted.json"]
    assert b'"e4"' in found["set_aside.json"]


@pytest.mark.parametrize("stage", ["fit_curvature", "score_examples"])
def test_a_stage_alone_is_refused_where_tables_of_an_earlier_run_have_it(
    prepare,  # noqa: F811
    tmp_path,
    stage,
):
    settings = {"batch_size": 2, "at": "recompute", "unit_seconds": 1e-9}
    task, folder, before = Blobs(), tmp_path / "one", _NODES[: _NODES.index(stage)]
    run(prepare(task, **settings), folder, names=before)
    for hooks in [Breaks(task, stage)], []:
        with pytest.raises(InputError, match=r"leave out 0; 1 are set aside.*--pipelines audit"):
            run(prepare(task, **settings), folder, *hooks, names=(stage,))
    run(prepare(task, **settings), folder)
    assert b'"examples": 11' in files_of(folder)["counted.json"]
    run(prepare(task, **settings), folder, names=(stage,))


def test_scoring_alone_is_refused_where_the_stored_curvature_is_not_the_one_it_takes(
    prepare,  # noqa: F811
    tmp_path,
):
    run(prepare(Blobs(), batch_size=2, at="recompute"), tmp_path / "one")
    kept, setup = tmp_path / "one" / "kept.json", prepare(Blobs(), batch_size=2, at="recompute")
    kept.write_text('{"of": "other examples"}')
    with pytest.raises(InputError, match=r"kept_curvature\).*--pipelines audit"):
        run(setup, tmp_path / "one", names=("score_examples",))
    run(setup, tmp_path / "one", names=("fit_curvature", "score_examples"))
    kept.write_text("{}")
    run(setup, tmp_path / "one", names=("score_examples",))
