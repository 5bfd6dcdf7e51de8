"""Our stages on a workload's folder, measured; `speed.py` runs it.

python -m benchmarks.speed_ours FOLDER --measurement FILE [--scores FILE] [--method source]
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from benchmarks.measurement import Measurement, Stopwatch
from benchmarks.pipeline_run import run_pipeline
from benchmarks.workloads import LAST, build_network, read_data, read_workload
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import ClassificationTask


class WorkloadTask(ClassificationTask):
    """A workload's folder as a task.

    Args:
        folder: The folder.
        dtype: In which everything is computed.
        queries: Only so many of them.
    """

    def __init__(
        self, folder: Path | str, *, dtype: torch.dtype = torch.float32, queries: int | None = None
    ) -> None:
        folder = Path(folder)
        self._workload = read_workload(folder)
        self._dtype = dtype
        data = read_data(folder)
        self._train = TensorDataset(*data["train"])
        self._queries = TensorDataset(*(one[:queries] for one in data["query"]))

    def build_model(self) -> nn.Module:
        """Return the untrained network."""
        return build_network(self._workload).to(self._dtype)

    def train_examples(self) -> Any:
        """Return the training data."""
        return self._train

    def query_examples(self) -> Any:
        """Return the queries."""
        return self._queries

    def train_table(self) -> pl.DataFrame:
        """Return a number for every training example."""
        return _numbered(len(self._train))

    def query_table(self) -> pl.DataFrame:
        """Return a number for every query."""
        return _numbered(len(self._queries))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return the logits, in the task's precision."""
        return model(batch[0].to(self._dtype))


class GivenLabelsTask(WorkloadTask):
    """The same with the given labels for the sampled ones, so that no draw differs."""

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Return logits and the given labels."""
        return super().forward(model, batch), batch[1]

    def train_loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the cross-entropy, [B]."""
        return super().train_loss(outputs[0], batch)

    def sampled_loss(self, outputs: Any, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy of the given labels, [B]."""
        return super().train_loss(outputs[0], outputs)

    def measurement(self, outputs: Any, batch: Any) -> Tensor:
        """Return the margin, [B]."""
        return super().measurement(outputs[0], batch)

    def describe(self, outputs: Any, batch: Any) -> dict[str, list[Any]]:
        """Return the predictions as text."""
        return super().describe(outputs[0], batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measurement", type=Path, required=True, help="JSON is written there")
    parser.add_argument("--scores", type=Path, help="scores [Q, N] are written there")
    parser.add_argument("--method", default="influence")
    parser.add_argument("--last", action="store_true", help="the last checkpoint alone")
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--cache", choices=("memory", "disk", "recompute"), default="memory")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--labels", choices=("sampled", "given"), default="sampled")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--tolerance", type=float, help="of the scores; 0 for the exact path")
    parser.add_argument("--queries", type=int, help="only the first so many")
    parser.add_argument("--scored-examples", type=int, help="only the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn labels")
    given = parser.parse_args(arguments)
    # The ingest says what it found; the measurement is asked for alone.
    logging.disable(logging.WARNING)
    kind = WorkloadTask if given.labels == "sampled" else GivenLabelsTask
    task = kind(given.folder, dtype=getattr(torch, given.dtype), queries=given.queries)
    watch = Stopwatch()
    run = run_pipeline(
        task,
        CheckpointFolder(given.folder / (LAST if given.last else "checkpoints")),
        AttributionParameters(method=given.method, device="cpu", seed=given.seed),
        given.segments,
        batch_size=given.batch_size,
        cache=given.cache,
        cache_folder=given.measurement.parent / "gradients",
        tolerance=given.tolerance,
        scored_examples=given.scored_examples,
        watch=watch,
    )
    if given.scores is not None:
        torch.save(run.scores, given.scores)
    facts = {"forward passes": run.passes[0], "backward passes": run.passes[1]}
    facts |= {f"relative error, member {i}": error for i, error in enumerate(run.errors)}
    Measurement(watch.costs, facts).write(given.measurement)


def _numbered(count: int) -> pl.DataFrame:
    return pl.DataFrame({"example_id": [str(i) for i in range(count)]})


if __name__ == "__main__":
    main()
