"""How time and memory grow with examples, queries, checkpoints and width.

    python -m benchmarks.scaling [--axes examples queries checkpoints width] [--cache recompute]

Every point is a process of its own: ours alone, Source on an MLP 784–W–W/2–10 with random inputs.
One setting changes at a time, the others stay at --base-…. Time is that of covariances,
eigendecomposition, corrected eigenvalues and scores; an exponent is the slope of its logarithm
against the setting's, by least squares (1: twice the setting, twice the time).

Scores are not kept. `--cache recompute` keeps no gradient, so that memory does not grow with the
number of examples at the price of a second and a third pass; `memory` keeps all of them, `disk`
writes them. The pipeline's own `auto` takes the first of memory (1 GiB by default), disk (20 GiB)
and recompute that the gradients' size is within: time and memory then jump where it changes.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import torch
from rich.console import Console
from rich.table import Table

# Run as a file, Python looks for modules beside it and not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import describe_machine
from benchmarks.measurement import STAGES, Cost
from benchmarks.processes import measure_in_process

AXES: Mapping[str, tuple[int, ...]] = {
    "examples": (6000, 12000, 24000, 60000),
    "queries": (50, 100, 200, 400),
    "checkpoints": (1, 2, 4, 6),
    "width": (128, 256, 512, 1024),
}
BASE = {"examples": 6000, "queries": 50, "checkpoints": 2, "width": 256}


@dataclass(frozen=True)
class Point:
    """A setting and what it took.

    Attributes:
        value: Of the axis.
        stages: What each of `STAGES` took, the median of its repeats.
        total: What they took together.
    """

    value: int
    stages: tuple[Cost, ...]
    total: Cost


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table an axis."""
    given = _parse(arguments)
    console = Console(highlight=False, width=140)
    console.print(describe_machine(threads=given.threads))
    base = {axis: getattr(given, f"base_{axis}") for axis in AXES}
    settings = ", ".join(f"{axis} {value}" for axis, value in base.items())
    console.print(f"{given.method}, cache {given.cache}; unless said otherwise: {settings}")
    for axis in given.axes:
        points = []
        for value in getattr(given, axis):
            with console.status(f"{axis} {value}"):
                points.append(_measure(axis, value, base | {axis: value}, given))
        console.print(axis_table(axis, points))


def axis_table(axis: str, points: Sequence[Point]) -> Table:
    """Return a row a point, and the fitted exponents in the last.

    Args:
        axis: What changes.
        points: In the order of their values.
    """
    table = Table(title=axis, title_justify="left", show_footer=len(points) > 1)
    table.add_column(axis, footer="exponent", justify="right")
    totals = [point.total for point in points]
    values = [point.value for point in points]
    wall, cpu, peak = (
        _exponent_or_nothing(values, [getattr(cost, name) for cost in totals])
        for name in ("wall", "cpu", "peak_bytes")
    )
    table.add_column("wall s", footer=wall, justify="right")
    table.add_column("CPU s", footer=cpu, justify="right")
    table.add_column("peak MiB", footer=peak, justify="right")
    for index, stage in enumerate(STAGES):
        costs = [point.stages[index].wall for point in points]
        footer = _exponent_or_nothing(values, costs)
        table.add_column(f"{stage}, wall s", footer=footer, justify="right")
    for point in points:
        table.add_row(
            str(point.value),
            f"{point.total.wall:.2f}",
            f"{point.total.cpu:.2f}",
            f"{point.total.peak_bytes / 2**20:.0f}",
            *(f"{cost.wall:.2f}" for cost in point.stages),
        )
    return table


def fitted_exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return the least-squares slope of log cost against log value.

    Raises:
        ValueError: If there are fewer than two points, or one is not positive.
    """
    if len(values) < 2 or min(*values, *costs) <= 0:  # noqa: PLR2004
        raise ValueError(
            f"An exponent needs two or more positive points, got values {list(values)} and costs "
            f"{list(costs)}."
        )
    return linear_regression([math.log(one) for one in values], [math.log(one) for one in costs])[0]


def _exponent_or_nothing(values: Sequence[float], costs: Sequence[float]) -> str:
    return f"{fitted_exponent(values, costs):.2f}" if len(values) > 1 else ""


def _measure(
    axis: str, value: int, settings: Mapping[str, int], given: argparse.Namespace
) -> Point:
    options = [part for name, one in settings.items() for part in (f"--{name}", one)]
    options += ["--cache", given.cache, "--method", given.method, "--batch-size", given.batch_size]
    runs = [
        measure_in_process(
            sys.executable, "benchmarks.scaling_point", options, threads=given.threads
        )
        for _ in range(given.repeats)
    ]
    return Point(
        value,
        tuple(_median([run.costs[stage] for run in runs]) for stage in STAGES),
        _median([run.total(STAGES) for run in runs]),
    )


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        int(median(cost.peak_bytes for cost in costs)),
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    for axis, values in AXES.items():
        shown = " ".join(map(str, values))
        parser.add_argument(
            f"--{axis}", nargs="+", type=int, default=values, help=f"points; {shown}"
        )
    for axis, value in BASE.items():
        parser.add_argument(f"--base-{axis}", type=int, default=value, help=f"elsewhere; {value}")
    parser.add_argument("--method", default="source")
    parser.add_argument("--cache", choices=("memory", "disk", "recompute"), default="recompute")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
