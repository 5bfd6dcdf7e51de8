"""Linear datamodeling score and CPU seconds beside peers, on a language model's first stage.

    python -m benchmarks.language_model_peers --ground-truth DIR [--repeats 2] [--threads 1]

DIR holds the model's ground truth: recipe.json, data.npz (train_tokens, query_tokens, query_slice),
Trainer's folders in checkpoints/run0 and outcomes.npz (subsets [S, N], measurements [seeds, S, Q]).
Every package is given the first stage alone, its checkpoints and its sequences, so that what the
second stage did is unexplained by all alike: predictions are sums over a subset's sequences of
the first stage, compared over all subsets with what was measured after both.

Peers: bergson 2.5.1, its unrolling of three checkpoints and its influence functions, and those of
kronfluence 1.0.1 and dattri-llm 0.1.0. They score the matrices of attention and MLP (the last two
with their biases); ours score all parameters, and those matrices alone beside it. Every measurement
is a process of its own, the packages in turn. Labels are drawn from the model by every package in
its own way, but for dattri-llm, which takes the given ones.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contestants import Contestant, measure_in_turn
from benchmarks.environments import REPOSITORY, make_environment
from benchmarks.gpt_data import read_first_stage
from benchmarks.machine import describe_machine
from benchmarks.speed_tables import Measured

from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import rank_correlation_interval

_NOT_NEEDED = ("torchvision", "torchaudio")
"""No peer needs them for text, and transformers fails on those that fit no CPU build of torch."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    given = _parse(arguments)
    console = Console(highlight=False, width=180)
    console.print(describe_machine(threads=given.threads))
    contestants = [
        one
        for one in _contestants(given)
        if not given.only or any(part in one.name for part in given.only)
    ]
    with tempfile.TemporaryDirectory() as name:
        measured = measure_in_turn(
            contestants,
            given.ground_truth / "gpt_two_stage",
            Path(name),
            repeats=given.repeats,
            threads=given.threads,
            console=console,
        )
    console.print(_table(given.ground_truth / "gpt_two_stage", measured))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=16, help="sequences, of every package")
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="those whose names have it")
    parser.add_argument(
        "--environments",
        type=Path,
        default=REPOSITORY / "build" / "environments",
        help="where peers are installed, once",
    )
    return parser.parse_args(arguments)


def _contestants(given: argparse.Namespace) -> list[Contestant]:
    size = ("--batch-size", given.batch_size)
    # Apart from the environments of `speed.py`, which have torchvision.
    bergson, kronfluence, dattri = (
        make_environment(given.environments / f"text-{one}", one, without=_NOT_NEEDED)
        for one in ("bergson==2.5.1", "kronfluence==1.0.1", "dattri-llm==0.1.0")
    )

    def ours(name: str, method: str, *more: object) -> Contestant:
        return Contestant(name, sys.executable, "benchmarks.gpt_ours", (method, *size, *more))

    def of_bergson(name: str, *more: object) -> Contestant:
        return Contestant(name, bergson, "benchmarks.gpt_bergson", (*more, *size))

    def influence_of(name: str, python: Path, module: str, *more: object) -> Contestant:
        return Contestant(f"influence, {name}", python, f"benchmarks.{module}", (*size, *more))

    blocks = "--weights-of-blocks"
    return [
        ours("Source, ours, all parameters", "source"),
        ours("Source, ours, matrices of the blocks", "source", blocks),
        of_bergson("Source, bergson", "source_adam"),
        of_bergson("Source, bergson, losses as in training", "source_adam", "--reduction", "mean"),
        ours("influence, ours, all parameters", "influence"),
        ours("influence, ours, matrices of the blocks", "influence", blocks),
        of_bergson("influence, bergson", "ekfac"),
        influence_of("kronfluence", kronfluence, "gpt_kronfluence"),
        influence_of("kronfluence, its damping", kronfluence, "gpt_kronfluence", "--damping", 1e-8),
        influence_of("dattri-llm", dattri, "gpt_dattri"),
    ]


def _table(folder: Path, measured: dict[str, Measured]) -> Table:
    """Return a row a contestant: LDS of both kinds of queries, costs of its runs."""
    table = Table(title="Median of the runs (smallest to largest); LDS of the first runs")
    table.add_column("")
    for heading in (
        "LDS, first stage's kind",
        "LDS, second's",
        "CPU s",
        "with imports",
        "peak MiB",
    ):
        table.add_column(heading, justify="right")
    for name, one in measured.items():
        totals = [run.total(run.costs) for run in one.runs]
        table.add_row(
            name,
            *_scores_cells(folder, one.scores),
            _range([total.cpu for total in totals]),
            _range([run.facts["process CPU"] for run in one.runs]),
            _range([total.peak_bytes / 2**20 for total in totals]),
        )
    return table


def _scores_cells(folder: Path, scores: Sequence[Tensor]) -> list[str]:
    """Return the LDS of every run, and the first one's 95 % interval, by kind of query."""
    stage = read_first_stage(folder)
    outcomes = np.load(folder / "outcomes.npz")
    subsets = torch.from_numpy(outcomes["subsets"])[:, : len(stage.train_tokens)].double()
    measurements = torch.from_numpy(outcomes["measurements"].mean(0)).double()
    first = torch.from_numpy(np.load(folder / "data.npz")["query_slice"] == stage.name)
    cells = []
    for kind in (first, ~first):
        # What is predicted of a subset: minus its sum, for scores have the sign of a removal.
        predicted = [-(subsets @ one.double().T)[:, kind] for one in scores]
        found = [f"{rank_correlation(one, measurements[:, kind]).mean():.3f}" for one in predicted]
        low, high = rank_correlation_interval(predicted[0], measurements[:, kind])
        cells.append(f"{', '.join(found)} [{low:.3f}, {high:.3f}]")
    return cells


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
