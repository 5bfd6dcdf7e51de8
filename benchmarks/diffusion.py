"""A small diffusion model of the digits: whose lists the same scans lead, and what retraining says.

    python benchmarks/diffusion.py [--subsets 40] [--seeds 2]

An MLP of 37,000 parameters learns the noise of 200 of scikit-learn's 8×8 digits with Adam, 100
timesteps, 6 checkpoints; 200 other scans are the queries. It is trained again on random halves.
Printed are, for every method and kind of draws,

- places: of those in the queries' lists of their 10 most helpful scans, the share that is held by
  scans which are in a fifth of all lists or more, generally influential ones; how many these are,
- distinct: scans in any list; class: places held by a scan of the query's digit,
- LDS: rank correlation of predicted with measured loss of the queries, over the halves, and its
  interval. Measured are 64 timesteps with other noise than the scores know.

Draws are K timesteps and noises: "shared" by all examples, as `DiffusionTask` has them; "own" of
each example's stream; "one": a training scan has a single timestep and noise of its own, as in
Xie et al. 2024, where it is another one at each checkpoint. That is printed for five seeds.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.pipeline_run import run_pipeline

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.core.statistics.rank_correlation import rank_correlation
from sourcetrace.core.statistics.retraining import (
    noise_ceiling,
    rank_correlation_interval,
    split_half_reliability,
)
from sourcetrace.parameters import AttributionParameters
from sourcetrace.tasks import DiffusionTask, NoiseSchedule

EXAMPLES, QUERIES, TIMESTEPS, STEPS, BATCH, CHECKPOINTS = 200, 200, 100, 3000, 50, 6
PIXELS, WIDTH, WAVES = 64, 128, 16
LISTED, GENERAL = 10, 0.2
METHODS = ("tracin", "retrac", "gradient_similarity", "source", "scaled_source", "influence")
GRADIENTS = METHODS[:2]
ROWS = [
    *(("one", 1, seed, GRADIENTS) for seed in range(5)),
    *((kind, draws, 0, METHODS) for kind in ("own", "shared") for draws in (8, 32)),
]
HEADINGS = (
    "draws",
    "K",
    "seed",
    "method",
    "places",
    "scans",
    "distinct",
    "class",
    "LDS",
    "95 % interval",
)


class _Denoiser(nn.Module):
    """Three linear layers; the timestep as sines and cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PIXELS + 2 * WAVES, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, PIXELS),
        )

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the predicted noise, [B, 64]."""
        frequencies = 1000 ** torch.linspace(0, 1, WAVES).to(noisy)
        phases = timesteps.unsqueeze(1) / TIMESTEPS * frequencies
        predicted: Tensor = self.layers(torch.cat([noisy, phases.sin(), phases.cos()], dim=1))
        return predicted


class _Digits(DiffusionTask):
    """Scans, their numbers in the data and their digits."""

    schedule = NoiseSchedule.cosine(TIMESTEPS)

    def __init__(self, draws: int = 32, seed: int = 0) -> None:
        data = load_digits()
        order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
        chosen = order[: EXAMPLES + QUERIES]
        self.draws, self.seed = draws, seed
        self.scans = (torch.from_numpy(data.images).float().flatten(1) / 8 - 1)[chosen]
        self.digits = torch.from_numpy(data.target)[chosen]
        self.sides = {"train": slice(0, EXAMPLES), "query": slice(EXAMPLES, None)}

    def build_model(self) -> nn.Module:
        return _Denoiser()

    def train_examples(self) -> TensorDataset:
        return self._examples("train")

    def query_examples(self) -> TensorDataset:
        return self._examples("query")

    def train_table(self) -> pl.DataFrame:
        return self._table("train")

    def query_table(self) -> pl.DataFrame:
        return self._table("query")

    def _examples(self, side: str) -> TensorDataset:
        numbers = torch.arange(len(self.scans))
        return TensorDataset(self.scans[self.sides[side]], numbers[self.sides[side]])

    def _table(self, side: str) -> pl.DataFrame:
        numbers = range(len(self.scans))[self.sides[side]]
        digits = self.digits[self.sides[side]].tolist()
        return pl.DataFrame({"example_id": list(map(str, numbers)), "label": digits})


class _OwnDraws(_Digits):
    """Every scan has a stream of its own."""

    def draws_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        rows = [self._of(int(number)) for number in batch[1]]
        timesteps, noise = (torch.stack(part) for part in zip(*rows, strict=True))
        return timesteps, noise.to(batch[0])

    def _of(self, number: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(number + 1000 * self.seed)
        places = torch.rand(self.draws, generator=stream, dtype=torch.float64)
        timesteps = (torch.arange(self.draws) + places) * TIMESTEPS / self.draws
        return timesteps.long(), torch.randn(self.draws, PIXELS, generator=stream)


class _OneTimestep(_OwnDraws):
    """A training scan has one timestep; the measurement of a query is over many."""

    def draws_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        of_training = int(batch[1][0]) < EXAMPLES
        return super().draws_of(batch) if of_training else _Digits().draws_of(batch)


KINDS = {"one": _OneTimestep, "own": _OwnDraws, "shared": _Digits}


def train(task: _Digits, numbers: Tensor, *, seed: int, folder: Path | None = None) -> nn.Module:
    """Train on some of the scans; the step draws timesteps and noise anew."""
    torch.manual_seed(seed)
    model = task.build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    scans, schedule = task.scans[numbers], task.schedule
    for step in range(1, STEPS + 1):
        clean = scans[torch.randint(len(scans), (BATCH,))]
        timesteps, noise = torch.randint(TIMESTEPS, (BATCH,)), torch.randn(BATCH, PIXELS)
        loss = F.mse_loss(model(schedule.noisy(clean, noise, timesteps), timesteps), noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if folder is not None and step % (STEPS // CHECKPOINTS) == 0:
            state = {
                "step": step,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
            }
            torch.save(state, folder / f"step_{step:06d}.pt")
    return model.eval()


@torch.no_grad()
def measured(task: _Digits, model: nn.Module, *, draws: int = 64) -> Tensor:
    """Return the queries' losses over other draws than the scores', [Q]."""
    queries = task.scans[task.sides["query"]]
    stream = torch.Generator().manual_seed(12345)
    total = torch.zeros(len(queries))
    for draw in range(draws):
        timesteps = torch.full((len(queries),), int((draw + 0.5) * TIMESTEPS / draws))
        noise = torch.randn(queries.shape, generator=stream)
        predicted = model(task.schedule.noisy(queries, noise, timesteps), timesteps)
        total += (predicted - noise).square().mean(1) / draws
    return total


def retrained(task: _Digits, subsets: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Return the halves, [S, N] with 1 for what is in, and the outcomes, [seeds, S, Q]."""
    stream = torch.Generator().manual_seed(1)
    halves = [torch.randperm(EXAMPLES, generator=stream)[: EXAMPLES // 2] for _ in range(subsets)]
    inside = torch.zeros(subsets, EXAMPLES, dtype=torch.float64)
    outcomes = torch.zeros(seeds, subsets, QUERIES, dtype=torch.float64)
    for place, half in enumerate(halves):
        inside[place, half] = 1
        for seed in range(seeds):
            outcomes[seed, place] = measured(task, train(task, half, seed=1000 * seed + place + 1))
    return inside, outcomes


def described(task: _Digits, scores: Tensor, inside: Tensor, outcomes: Tensor) -> list[str]:
    """Return a row of the table, from scores [Q, N] by removal of a loss."""
    listed = scores.topk(LISTED, dim=1).indices
    counts = torch.bincount(listed.flatten(), minlength=EXAMPLES)
    general = counts >= GENERAL * QUERIES
    digits = task.digits[task.sides["query"]].unsqueeze(1)
    same = (task.digits[listed] == digits).double().mean()
    predictions, measurements = -(inside @ scores.double().T), outcomes.mean(0)
    correlation = rank_correlation(predictions, measurements).mean()
    low, high = rank_correlation_interval(predictions, measurements)
    return [
        f"{counts[general].sum() / counts.sum():.2f}",
        f"{int(general.sum())}",
        f"{int((counts > 0).sum())}",
        f"{same:.2f}",
        f"{correlation:.3f}",
        f"{low:.3f} to {high:.3f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, train again, audit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subsets", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # of the ingest; here its result is the table
    console = Console(highlight=False, width=120)
    console.print(describe_machine())
    task, started = _Digits(), time.process_time()
    inside, outcomes = retrained(task, given.subsets, given.seeds)
    ceiling = noise_ceiling(split_half_reliability(outcomes), seeds=given.seeds)
    console.print(f"Retrained in {time.process_time() - started:.0f} CPU seconds")
    table = Table(title=f"{given.subsets} halves, {given.seeds} seeds, ceiling {ceiling:.3f}")
    for heading in HEADINGS:
        table.add_column(heading)
    with tempfile.TemporaryDirectory() as folder:
        train(task, torch.arange(EXAMPLES), seed=0, folder=Path(folder))
        for kind, draws, seed, methods in ROWS:
            for method in methods:
                attribution = AttributionParameters(method=method, device="cpu")
                own = KINDS[kind](draws, seed)
                scores = run_pipeline(own, CheckpointFolder(Path(folder)), attribution, 1).scores
                row = described(task, scores, inside, outcomes)
                table.add_row(kind, str(draws), str(seed), method, *row)
    console.print(table)
    console.print(f"{time.process_time() - started:.0f} CPU seconds in all")


if __name__ == "__main__":
    main()
