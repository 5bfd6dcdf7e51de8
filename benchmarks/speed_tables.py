"""Tables of repeated measurements: medians with their range, and ratios to the first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.agreement import pearson
from benchmarks.measurement import STAGES, Cost, Measurement
from rich.table import Table
from torch import Tensor

_MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """Every run of a contestant.

    Attributes:
        runs: One or more.
        scores: Of the first two, [Q, N] each.
    """

    runs: tuple[Measurement, ...]
    scores: tuple[Tensor, ...]


@dataclass(frozen=True)
class Comparison:
    """Stages that are compared together.

    Attributes:
        title: As printed.
        stages: Whose costs are added.
        names: Contestants; the first is what ratios and correlations refer to.
    """

    title: str
    stages: tuple[str, ...]
    names: tuple[str, ...]


def comparison_table(comparison: Comparison, measured: Mapping[str, Measured]) -> Table:
    """Return a row a contestant.

    Args:
        comparison: What is compared.
        measured: By contestant.
    """
    table = Table(title=comparison.title, title_justify="left")
    table.add_column("")
    for heading in (
        "wall s",
        "CPU s",
        "peak MiB",
        "wall, ratio",
        "CPU, ratio",
        "Pearson",
        "own Pearson",
    ):
        table.add_column(heading, justify="right")
    first = measured[comparison.names[0]]
    whole = comparison.stages == STAGES
    for name in comparison.names:
        other = measured[name]
        costs, reference = _costs(other, comparison.stages), _costs(first, comparison.stages)
        table.add_row(
            name,
            _range(costs, lambda cost: cost.wall),
            _range(costs, lambda cost: cost.cpu),
            _range(costs, lambda cost: cost.peak_bytes / _MIB, digits=0),
            _ratio(costs, reference, lambda cost: cost.wall),
            _ratio(costs, reference, lambda cost: cost.cpu),
            f"{pearson(other.scores[0], first.scores[0]):.5f}" if whole else "",
            f"{pearson(*other.scores):.5f}" if whole and len(other.scores) > 1 else "",
        )
    return table


def stage_table(measured: Mapping[str, Measured]) -> Table:
    """Return median wall and CPU seconds of every stage, a row a contestant."""
    table = Table(title="stages: wall s / CPU s / peak MiB", title_justify="left")
    table.add_column("")
    for stage in STAGES:
        table.add_column(stage, justify="right")
    for name, one in measured.items():
        cells = []
        for stage in STAGES:
            costs = _costs(one, (stage,))
            cells.append(
                f"{median(cost.wall for cost in costs):.2f} / "
                f"{median(cost.cpu for cost in costs):.2f} / "
                f"{median(cost.peak_bytes for cost in costs) / _MIB:.0f}"
            )
        table.add_row(name, *cells)
    return table


def _costs(measured: Measured, stages: Sequence[str]) -> list[Cost]:
    return [run.total(stages) for run in measured.runs]


def _range(costs: Sequence[Cost], value: Callable[[Cost], float], *, digits: int = 2) -> str:
    values = [value(cost) for cost in costs]
    return (
        f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        if len(values) > 1
        else f"{values[0]:.{digits}f}"
    )


def _ratio(costs: Sequence[Cost], reference: Sequence[Cost], value: Callable[[Cost], float]) -> str:
    ours = median(value(cost) for cost in reference)
    theirs = median(value(cost) for cost in costs)
    return f"{theirs / ours:.2f}" if ours else ""
