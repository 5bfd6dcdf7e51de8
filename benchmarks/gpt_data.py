"""The first stage of a ground truth's language model, and what every package's run has in common.

Torch and numpy alone, so that a peer's interpreter imports it too.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.measurement import Measurement, Stopwatch
from torch import Tensor

_WARM_UP = 0.1
"""Share of a stage's steps, as the recipe says in words."""


@dataclass(frozen=True)
class FirstStage:
    """The stage that every package is given.

    Attributes:
        name: As its folder is called.
        train_tokens: [N, T], of the stage's own sequences.
        query_tokens: [Q, T], of both kinds.
        checkpoints: Trainer's folders, in order.
        learning_rate: Of the schedule's peak.
    """

    name: str
    train_tokens: Tensor
    query_tokens: Tensor
    checkpoints: tuple[Path, ...]
    learning_rate: float

    def learning_rates(self) -> list[float]:
        """Return every step's learning rate: linear, after a warm-up, down to 0."""
        steps = _step(self.checkpoints[-1])
        warm = int(np.ceil(_WARM_UP * steps))
        return [
            self.learning_rate * min(step / warm, (steps - step) / (steps - warm))
            for step in range(steps)
        ]

    def segments(self) -> list[tuple[float, int]]:
        """Return mean learning rate and steps of every checkpoint's share of the training."""
        rates, ends = self.learning_rates(), [_step(one) for one in self.checkpoints]
        shares = [rates[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return [(float(np.mean(share)), len(share)) for share in shares]


def read_first_stage(folder: Path) -> FirstStage:
    """Read what the first stage was trained on, and what is asked of it.

    Args:
        folder: With recipe.json, data.npz and checkpoints/run0.
    """
    stage = json.loads((folder / "recipe.json").read_text())["stages"][0]
    data = np.load(folder / "data.npz")
    checkpoints = (folder / "checkpoints" / "run0" / stage["name"]).glob("checkpoint-*")
    return FirstStage(
        stage["name"],
        torch.from_numpy(data["train_tokens"][: stage["count"]]).long(),
        torch.from_numpy(data["query_tokens"]).long(),
        tuple(sorted(checkpoints, key=_step)),
        stage["lr"],
    )


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return the arguments that every package's module takes.

    Args:
        description: Its docstring.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measurement", type=Path, required=True, help="JSON is written there")
    parser.add_argument(
        "--scores", type=Path, required=True, help="scores [Q, N] are written there"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="sequences")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn labels")
    return parser


def write_run(given: argparse.Namespace, scores: Tensor, watch: Stopwatch) -> None:
    """Write scores, the watch's costs and what the whole process took.

    Args:
        given: The arguments.
        scores: [Q, N], of the sign of a removal.
        watch: Stopped.
    """
    torch.save(scores.contiguous(), given.scores)
    Measurement(watch.costs, {"process CPU": time.process_time()}).write(given.measurement)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
