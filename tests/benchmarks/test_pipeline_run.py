from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.measurement import STAGES, Stopwatch
from benchmarks.pipeline_run import INGEST, PipelineRun, run_pipeline
from benchmarks.speed_ours import WorkloadTask

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters
from tests.tiny import assert_close


def _run(folder: Path, method: str = "source", **options: Any) -> PipelineRun:
    return run_pipeline(
        WorkloadTask(folder, dtype=torch.float64),
        CheckpointFolder(folder / "checkpoints"),
        AttributionParameters(method=method, device="cpu"),
        2,
        **options,
    )


def test_where_gradients_are_kept_changes_the_passes_and_not_the_scores(
    tiny_folder: Path, tmp_path: Path
) -> None:
    kept = _run(tiny_folder, cache="memory", batch_size=10)
    again = _run(tiny_folder, cache="recompute", batch_size=10)
    stored = _run(tiny_folder, cache="disk", batch_size=10, cache_folder=tmp_path / "cache")
    assert kept.scores.shape == (3, 24)
    assert_close(again.scores, kept.scores)
    assert_close(stored.scores, kept.scores)
    assert again.passes[0] > kept.passes[0] == stored.passes[0]


def test_a_part_of_the_scores_is_that_part(tiny_folder: Path) -> None:
    every = _run(tiny_folder, batch_size=8)
    assert_close(_run(tiny_folder, batch_size=8, scored_examples=9).scores, every.scores[:, :16])
    assert _run(tiny_folder, batch_size=8, keep_scores=False).scores.shape == (3, 0)


@pytest.mark.parametrize("method", ["source", "influence", "scaled_source"])
def test_every_stage_is_timed_once(tiny_folder: Path, method: str) -> None:
    watch = Stopwatch()
    _run(tiny_folder, method, watch=watch)
    assert set(watch.costs) == {INGEST, *STAGES}


def test_a_method_without_curvature_has_no_fit(tiny_folder: Path) -> None:
    watch = Stopwatch()
    _run(tiny_folder, "tracin", watch=watch)
    assert set(watch.costs) == {INGEST, STAGES[-1]}


def test_disk_needs_a_folder(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="needs a cache_folder"):
        _run(tiny_folder, cache="disk")
