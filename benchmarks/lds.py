"""Linear datamodeling score of every method on retrained ground truths.

    python benchmarks/lds.py --ground-truth DIR [--sets mnist concrete] [--queries all] [--ensemble]

DIR holds a folder a training recipe: recipe.json, data.npz (train_inputs, train_targets, …),
checkpoints/run0/step_*.pt and outcomes.npz (subsets [S, N], measurements [seeds, S, Q]).
With --ensemble, sets with several runs get a line for each and one for the mean of their scores,
which is what the package returns for them together.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground_truth_data import read_side
from benchmarks.machine import describe_machine
from benchmarks.pipeline_run import run_pipeline

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import rank_correlation_interval, removal_slope
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import ClassificationTask, RegressionTask

# Queries that the published reference figures use; the rest with --queries all.
REFERENCE_QUERIES = {
    "concrete": range(103),
    "mnist": range(50),
    "mnist_early": [*range(25), *range(200, 225)],
    "mnist_two_stage": [*range(25), *range(200, 225)],
}

# Passes are a training set's: 12 forward passes go through every training example 12 times.
_HEADINGS = (
    "method",
    "run",
    "segments",
    "LDS",
    "95 % interval",
    "± queries",
    "slope",
    "seconds",
    "forward",
    "backward",
    "residual (iterations)",
)


class _GroundTruth:
    """A folder of ground truth as a task: data, model and stages."""

    def __init__(self, folder: Path, queries: Sequence[int]) -> None:
        self.recipe = json.loads((folder / "recipe.json").read_text())
        data = np.load(folder / "data.npz")
        self.stages = self.recipe["stages"]
        self._train = TensorDataset(*read_side(data, "train"))
        self._queries = Subset(TensorDataset(*read_side(data, "query")), list(queries))

    def build_model(self) -> nn.Module:
        widths = self.recipe["widths"]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def train_examples(self) -> Any:
        return self._train

    def query_examples(self) -> Any:
        return self._queries

    def train_table(self) -> pl.DataFrame:
        table = pl.DataFrame({"example_id": [str(i) for i in range(len(self._train))]})
        if not self.stages:
            return table
        names = [f"stage{i}" for i, (a, b, *_) in enumerate(self.stages) for _ in range(a, b)]
        return table.with_columns(stage=pl.Series(names))

    def query_table(self) -> pl.DataFrame:
        return pl.DataFrame({"example_id": [str(i) for i in range(len(self._queries))]})


@dataclass(frozen=True)
class _Scored:
    """Scores [Q, N], forward and backward passes by example, ASTRA's residuals and iterations."""

    scores: Tensor
    passes: tuple[int, int]
    residual: str


class ClassificationGroundTruth(_GroundTruth, ClassificationTask):
    """Cross-entropy and margin."""


class RegressionGroundTruth(_GroundTruth, RegressionTask):
    """Squared error."""


def main() -> None:
    """Print a table a ground truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=sorted(REFERENCE_QUERIES))
    parser.add_argument("--queries", choices=("reference", "all"), default="reference")
    parser.add_argument("--run", default="run0")
    parser.add_argument("--ensemble", action="store_true", help="every run, and their mean")
    parser.add_argument(
        "--damping", nargs="*", type=float, default=[], help="λ of further influence functions"
    )
    parser.add_argument(
        "--segments", nargs="*", type=int, default=[], help="further segment counts of Source"
    )
    parser.add_argument("--methods", nargs="*", default=[], help="these alone")
    parser.add_argument("--astra-examples", type=int, default=2048)
    parser.add_argument("--astra-iterations", type=int, default=20)
    arguments = parser.parse_args()
    # The ingest warns of every layer and rate; here its result is the table.
    logging.disable(logging.WARNING)
    console = Console(highlight=False, width=160)
    console.print(describe_machine())
    for name in arguments.sets:
        console.print(_measure(arguments.ground_truth / name, name, arguments))


def _measure(folder: Path, name: str, arguments: argparse.Namespace) -> Table:
    outcomes = np.load(folder / "outcomes.npz")
    subsets = torch.from_numpy(outcomes["subsets"])
    measured = torch.from_numpy(outcomes["measurements"].mean(0))
    every = range(measured.shape[1])
    queries = list(every if arguments.queries == "all" else REFERENCE_QUERIES[name])
    recipe = json.loads((folder / "recipe.json").read_text())
    kind = ClassificationGroundTruth if recipe["loss"] == "cross-entropy" else RegressionGroundTruth
    task = kind(folder, queries)
    runs = [arguments.run]
    if arguments.ensemble:
        runs = sorted(run.name for run in (folder / "checkpoints").iterdir() if run.is_dir())
    stages = len(recipe["stages"] or [0])
    counts = [*([stages] if stages > 1 else [3, 1]), *arguments.segments]
    variants: list[tuple[str, int | Literal["auto"], float | None]] = [
        (method, count, None)
        for method in ("source", "scaled_source")
        for count in (*counts, "auto")
    ]
    variants.append(("fast_source", stages if stages > 1 else 3, None))
    variants += [("influence", stages, damping) for damping in [None, *arguments.damping]]
    others = ("tracin", "trak", "gradient_similarity", "representation_similarity")
    variants += [(method, stages, None) for method in others]
    variants += [("astra_source", counts[0], None), ("astra_influence", stages, None)]
    if arguments.methods:
        variants = [one for one in variants if one[0] in arguments.methods]
    table = Table(
        title=f"{name}: {len(queries)} queries, {len(subsets)} subsets", title_justify="left"
    )
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("method", "run") else "right")
    measurements = measured[:, queries]
    for method, segments, damping in variants:
        attribution = AttributionParameters(
            method=method,
            damping=damping,
            astra={
                "examples": arguments.astra_examples,
                "max_iterations": arguments.astra_iterations,
            },
        )
        found: list[tuple[str, _Scored, float]] = []
        for run in runs:
            started = time.perf_counter()
            checkpoints = CheckpointFolder(folder / "checkpoints" / run)
            scored = _scores(task, checkpoints, attribution, segments)
            found.append((run, scored, time.perf_counter() - started))
        if len(runs) > 1:
            mean = torch.stack([one.scores for _, one, _ in found]).mean(0)
            passes = (
                sum(one.passes[0] for _, one, _ in found),
                sum(one.passes[1] for _, one, _ in found),
            )
            whole = _Scored(mean, passes, "")
            found.append((f"mean of {len(runs)}", whole, sum(seconds for *_, seconds in found)))
        for run, scored, seconds in found:
            # What is predicted of a subset: minus its sum, for scores have the sign of a removal.
            predictions = -(subsets.double() @ scored.scores.double().T)
            lds = rank_correlation(predictions, measurements)
            low, high = rank_correlation_interval(predictions, measurements)
            table.add_row(
                method if damping is None else f"{method}, λ = {damping:g}",
                run,
                str(segments),
                f"{lds.mean():.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{lds.std() / len(lds) ** 0.5:.3f}",
                f"{_slope(scored.scores, subsets, measurements):.3f}",
                f"{seconds:.0f}",
                *(f"{count / len(task.train_examples()):.0f}" for count in scored.passes),
                scored.residual,
            )
    return table


def _slope(scores: Tensor, subsets: Tensor, measurements: Tensor) -> float:
    """Return the measured change for each unit of predicted change, both less a query's mean."""
    predictions = -(subsets.double() @ scores.double().T)
    changes = measurements.double() - measurements.double().mean(0)
    return removal_slope((predictions - predictions.mean(0)).flatten(), changes.flatten())


def _scores(
    task: Any,
    checkpoints: CheckpointFolder,
    attribution: AttributionParameters,
    segments: int | Literal["auto"],
) -> _Scored:
    """Return scores as the pipeline computes them, kept in memory, and what they took."""
    run = run_pipeline(task, checkpoints, attribution, segments)
    residuals = "; ".join(
        f"{float(one.residuals.max()):.2g} ({int(one.iterations.max())})" for one in run.solves
    )
    return _Scored(run.scores, run.passes, residuals)


if __name__ == "__main__":
    main()
