"""One point of the scaling benchmark, measured; `scaling.py` runs it.

    python -m benchmarks.scaling_point --measurement FILE [--examples 6000] [--queries 50] …

An MLP 784–W–W/2–10 on random inputs. Examples repeat a pool of inputs under names of their own:
the work is that of N examples, and the data takes no more memory for a larger N. Checkpoints are
random weights a little further on each time; what they were trained to makes no difference here.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from benchmarks.measurement import Measurement, Stopwatch
from benchmarks.pipeline_run import run_pipeline
from benchmarks.workloads import CLASSES, Workload, build_network, random_data, save_checkpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import ClassificationTask

INPUTS = 784
_POOL = 1000
_STEP = 0.02
"""Standard deviation of the weights' change from a checkpoint to the next."""


class RepeatedExamples(Dataset[tuple[Tensor, Tensor]]):
    """As many examples as wanted out of few.

    Args:
        inputs: Of the pool, [pool, …].
        labels: Of the pool, [pool].
        count: How many examples.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, count: int) -> None:
        self._inputs, self._labels, self._count = inputs, labels, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = index % len(self._labels)
        return self._inputs[place], self._labels[place]


class ScalingTask(ClassificationTask):
    """An MLP on repeated random examples."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._pool = random_data(replace(workload, examples=_POOL, queries=_POOL))

    def build_model(self) -> nn.Module:
        """Return the untrained network."""
        return build_network(self._workload)

    def train_examples(self) -> Any:
        """Return the training data."""
        return self._of("train", self._workload.examples)

    def query_examples(self) -> Any:
        """Return the queries."""
        return self._of("query", self._workload.queries)

    def train_table(self) -> pl.DataFrame:
        """Return a number for every training example."""
        return _numbered(self._workload.examples)

    def query_table(self) -> pl.DataFrame:
        """Return a number for every query."""
        return _numbered(self._workload.queries)

    def _of(self, side: str, count: int) -> RepeatedExamples:
        return RepeatedExamples(*self._pool[side], count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measurement", type=Path, required=True, help="JSON is written there")
    parser.add_argument("--examples", type=int, default=6000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--method", default="source")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--cache", choices=("memory", "disk", "recompute"), default="recompute")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    task = ScalingTask(_workload(given.width, given.examples, given.queries))
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoints(task.build_model, folder / "checkpoints", given.checkpoints)
        run = run_pipeline(
            task,
            CheckpointFolder(folder / "checkpoints"),
            AttributionParameters(method=given.method, device="cpu"),
            given.segments,
            batch_size=given.batch_size,
            cache=given.cache,
            cache_folder=folder / "gradients",
            keep_scores=False,
            watch=watch,
        )
    facts = {"forward passes": run.passes[0], "backward passes": run.passes[1]}
    Measurement(watch.costs, facts).write(given.measurement)


def _workload(width: int, examples: int, queries: int) -> Workload:
    return Workload(
        "mlp",
        (INPUTS, width, width // 2, CLASSES),
        examples=examples,
        queries=queries,
        epochs=0,
        checkpoints=0,
    )


def write_checkpoints(build_model: Callable[[], nn.Module], folder: Path, count: int) -> None:
    """Write ordinary checkpoints of random weights into a new folder."""
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for number in range(count):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=_STEP)
            save_checkpoint(folder, model, optimizer, 100 * (number + 1))


def _numbered(count: int) -> pl.DataFrame:
    return pl.DataFrame({"example_id": [str(i) for i in range(count)]})


if __name__ == "__main__":
    main()
