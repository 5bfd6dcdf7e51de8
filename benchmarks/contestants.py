"""Packages, or ways of running ours, measured in turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.measurement import Measurement
from benchmarks.processes import measure_in_process
from benchmarks.speed_tables import Measured
from rich.console import Console


@dataclass(frozen=True)
class Contestant:
    """A package, or a way of running ours.

    Attributes:
        name: As printed.
        python: Its interpreter.
        module: Measures one run.
        arguments: Of the module, without folder and files.
    """

    name: str
    python: Path | str
    module: str
    arguments: tuple[object, ...]


def measure_in_turn(
    contestants: Sequence[Contestant],
    folder: Path,
    output: Path,
    *,
    repeats: int,
    threads: int,
    console: Console,
) -> dict[str, Measured]:
    """Run every contestant, then every contestant again.

    Args:
        contestants: Who is measured.
        folder: The workload's, each module's first argument.
        output: Where scores are written.
        repeats: Runs of each, with a seed of their own.
        threads: Of each process.
        console: Shows who is running.
    """
    runs: dict[str, list[Measurement]] = {one.name: [] for one in contestants}
    for repeat in range(repeats):
        for one in contestants:
            with console.status(f"{one.name}, run {repeat + 1} of {repeats}"):
                file = scores_file(output, one.name, repeat)
                arguments = [folder, *one.arguments, "--scores", file, "--seed", repeat]
                found = measure_in_process(one.python, one.module, arguments, threads=threads)
                runs[one.name].append(found)
    return {
        one.name: Measured(
            tuple(runs[one.name]),
            tuple(
                torch.load(scores_file(output, one.name, repeat), weights_only=True)
                # Two tell how far draws alone move them.
                for repeat in range(min(repeats, 2))
            ),
        )
        for one in contestants
    }


def scores_file(output: Path, name: str, repeat: int) -> Path:
    """Return where a contestant's scores of a run are."""
    return output / f"scores {name} {repeat}.pt"
