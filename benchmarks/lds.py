"""Linear datamodeling score of every method on retrained ground truths.

    python benchmarks/lds.py --ground-truth DIR [--sets mnist concrete] [--queries all] [--ensemble]

DIR holds a folder a training recipe: recipe.json, data.npz (train_inputs, train_targets, …; of a
language model train_tokens, …), checkpoints/run0 and outcomes.npz (subsets [S, N], measurements
[seeds, S, Q]). Where queries are of several kinds, each kind has a line.
With --ensemble, sets with several runs get a line for each and one for the mean of their scores,
which is what the package returns for them together.
"""

import argparse
import json
import logging
import sys
import tempfile
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
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset
from transformers import AutoConfig, AutoModelForCausalLM

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground_truth_data import read_side
from benchmarks.machine import describe_machine
from benchmarks.pipeline_run import run_pipeline
from benchmarks.small_networks import mlp

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import rank_correlation_interval, removal_slope
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import ClassificationTask, LanguageModelTask, RegressionTask
from sourcetrace.tasks.search import bm25

# Queries that the published reference figures use; the rest with --queries all.
REFERENCE_QUERIES = {
    "concrete": range(103),
    "gpt_two_stage": range(96),
    "mnist": range(50),
    "mnist_early": [*range(25), *range(200, 225)],
    "mnist_two_stage": [*range(25), *range(200, 225)],
}

_WORDS = "bm25"
"""No method of the package: relevance by words, to compare with."""

# Passes are a training set's: 12 forward passes go through every training example 12 times.
_HEADINGS = (
    "method",
    "run",
    "segments",
    "queries",
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
        return mlp(self.recipe["widths"])

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


class LanguageGroundTruth(LanguageModelTask):
    """A causal model of transformers, built from its Trainer's configuration."""

    def __init__(self, folder: Path, queries: Sequence[int]) -> None:
        self.recipe = json.loads((folder / "recipe.json").read_text())
        data = np.load(folder / "data.npz")
        self.stages = [(one["name"], one["count"]) for one in self.recipe["stages"]]
        self._train = torch.from_numpy(data["train_tokens"]).long()
        self._queries = torch.from_numpy(data["query_tokens"]).long()[list(queries)]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def build_model(self) -> nn.Module:
        """Return the model, untrained."""
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**self.recipe["model"]))

    def train_examples(self) -> Any:
        """Return the training sequences."""
        return self._train

    def query_examples(self) -> Any:
        """Return the queries."""
        return self._queries

    def train_table(self) -> pl.DataFrame:
        """Return names and stages of the training sequences."""
        names = [name for name, count in self.stages for _ in range(count)]
        return pl.DataFrame({"example_id": map(str, range(len(names))), "stage": names})

    def texts(self) -> tuple[list[str], list[str]]:
        """Return the texts of the queries and of the training sequences."""
        queries, train = (one.tolist() for one in (self._queries, self._train))
        return self._tokenizer.decode_batch(queries), self._tokenizer.decode_batch(train)

    def query_table(self) -> pl.DataFrame:
        """Return names of the queries."""
        return pl.DataFrame({"example_id": [str(i) for i in range(len(self._queries))]})


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
    parser.add_argument("--every", type=int, default=1, help="every so many queries alone")
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
    parser.add_argument("--seed", type=int, default=0, help="of sampled labels")
    parser.add_argument("--sampled-labels", default="auto", help="of an example, or auto")
    arguments = parser.parse_args()
    # The ingest warns of every layer and rate; here its result is the table.
    logging.disable(logging.WARNING)
    console = Console(highlight=False, width=160)
    console.print(describe_machine())
    for name in arguments.sets:
        console.print(_measure(arguments.ground_truth / name, name, arguments))


@dataclass(frozen=True)
class _Variant:
    """What a line of the table runs; `adam` is whether P̄ is followed, where Adam trained."""

    method: str
    segments: int | Literal["auto"]
    damping: float | None = None
    adam: bool = True

    @property
    def title(self) -> str:
        damped = "" if self.damping is None else f", λ = {self.damping:g}"
        return f"{self.method}{damped}{'' if self.adam else ' without P̄'}"


def _variants(recipe: Any, arguments: argparse.Namespace) -> list[_Variant]:
    stages = len(recipe["stages"] or [0])
    counts = [*([stages] if stages > 1 else [3, 1]), *arguments.segments]
    found = [
        _Variant(method, count)
        for method in ("source", "scaled_source")
        for count in (*counts, "auto")
    ]
    if "vocab_size" in recipe.get("model", {}):
        found.append(_Variant("source", stages, adam=False))
    found.append(_Variant("fast_source", stages if stages > 1 else 3))
    found += [_Variant("influence", stages, one) for one in [None, *arguments.damping]]
    others = ("tracin", "trak", "gradient_similarity", "representation_similarity")
    found += [_Variant(method, stages) for method in others]
    found += [_Variant("astra_source", counts[0]), _Variant("astra_influence", stages)]
    if "vocab_size" in recipe.get("model", {}):
        found.append(_Variant(_WORDS, stages))
    return [one for one in found if not arguments.methods or one.method in arguments.methods]


def _measure(folder: Path, name: str, arguments: argparse.Namespace) -> Table:
    outcomes = np.load(folder / "outcomes.npz")
    subsets = torch.from_numpy(outcomes["subsets"])
    measured = torch.from_numpy(outcomes["measurements"].mean(0))
    every = range(measured.shape[1])
    queries = list(every if arguments.queries == "all" else REFERENCE_QUERIES[name])
    queries = queries[:: arguments.every]
    recipe = json.loads((folder / "recipe.json").read_text())
    task = _task(folder, queries)
    runs = [arguments.run]
    if arguments.ensemble:
        runs = sorted(run.name for run in (folder / "checkpoints").iterdir() if run.is_dir())
    table = Table(
        title=f"{name}: {len(queries)} queries, {len(subsets)} subsets", title_justify="left"
    )
    for heading in _HEADINGS:
        left = heading in ("method", "run", "queries")
        table.add_column(heading, justify="left" if left else "right")
    kinds = _kinds(folder, queries)
    for variant in _variants(recipe, arguments):
        found: list[tuple[str, _Scored, float]] = []
        for run in runs:
            started = time.perf_counter()
            checkpoints = _checkpoints(folder / "checkpoints" / run, recipe)
            scored = _scores(task, checkpoints, variant, arguments)
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
            took = (
                f"{seconds:.0f}",
                *(f"{count / len(task.train_examples()):.0f}" for count in scored.passes),
                scored.residual,
            )
            for kind, own in kinds.items():
                figures = _figures(scored.scores[own], subsets, measured[:, queries][:, own])
                table.add_row(variant.title, run, str(variant.segments), kind, *figures, *took)
    return table


def _kinds(folder: Path, queries: Sequence[int]) -> dict[str, list[int]]:
    """Return the places of all queries, and of each kind of them where there are several."""
    places = list(range(len(queries)))
    data = np.load(folder / "data.npz")
    if "query_slice" not in data:
        return {"all": places}
    names = data["query_slice"][list(queries)].tolist()
    own = {kind: [at for at in places if names[at] == kind] for kind in dict.fromkeys(names)}
    return {"all": places} | own


def _figures(scores: Tensor, subsets: Tensor, measured: Tensor) -> tuple[str, ...]:
    """Return the LDS, its interval, its spread over queries and the slope, as text."""
    # What is predicted of a subset: minus its sum, for scores have the sign of a removal.
    predictions = -(subsets.double() @ scores.double().T)
    lds = rank_correlation(predictions, measured)
    low, high = rank_correlation_interval(predictions, measured)
    return (
        f"{lds.mean():.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{lds.std() / len(lds) ** 0.5:.3f}",
        f"{_slope(scores, subsets, measured):.3f}",
    )


def _slope(scores: Tensor, subsets: Tensor, measurements: Tensor) -> float:
    """Return the measured change for each unit of predicted change, both less a query's mean."""
    predictions = -(subsets.double() @ scores.double().T)
    changes = measurements.double() - measurements.double().mean(0)
    return removal_slope((predictions - predictions.mean(0)).flatten(), changes.flatten())


def _scores(
    task: Any, checkpoints: CheckpointFolder, variant: _Variant, arguments: argparse.Namespace
) -> _Scored:
    """Return scores as the pipeline computes them, or by words alone, and what they took."""
    if variant.method == _WORDS:
        return _Scored(torch.from_numpy(bm25(*task.texts())), (0, 0), "")
    attribution = AttributionParameters(
        method=variant.method,
        damping=variant.damping,
        seed=arguments.seed,
        sampled_labels=arguments.sampled_labels,
        astra={
            "examples": arguments.astra_examples,
            "max_iterations": arguments.astra_iterations,
        },
    )
    language = isinstance(task, LanguageGroundTruth)
    with tempfile.TemporaryDirectory() as folder:
        run = run_pipeline(
            task,
            checkpoints,
            attribution,
            variant.segments,
            batch_size=64 if language else 1000,
            cache="disk" if language else "memory",  # tokens' gradients are many
            cache_folder=Path(folder),
            preconditioned=variant.adam,
        )
    residuals = "; ".join(f"{max(one.residuals):.2g} ({max(one.iterations)})" for one in run.solves)
    return _Scored(run.scores, run.passes, residuals)


def _task(folder: Path, queries: Sequence[int]) -> Any:
    recipe = json.loads((folder / "recipe.json").read_text())
    if "vocab_size" in recipe.get("model", {}):
        return LanguageGroundTruth(folder, queries)
    kind = ClassificationGroundTruth if recipe["loss"] == "cross-entropy" else RegressionGroundTruth
    return kind(folder, queries)


def _checkpoints(folder: Path, recipe: Any) -> CheckpointFolder:
    """Return a run's checkpoints; the Trainer counts the steps of every stage from 0 again."""
    if "vocab_size" not in recipe.get("model", {}):
        return CheckpointFolder(folder)
    last, stages = 0, {}
    for one in recipe["stages"]:
        last += one["count"] // recipe["batch_size"] * one["epochs"]
        stages[one["name"]] = last
    return CheckpointFolder(folder, stages)


if __name__ == "__main__":
    main()
