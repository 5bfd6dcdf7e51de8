"""A preflight's report as tables of a terminal."""

from collections.abc import Callable, Iterator

from rich.table import Column, Table

from sourcetrace.formats import format_count, format_number, format_share
from sourcetrace.reporting.preflight import Preflight

_COLOURS = {"ok": "green", "warning": "yellow", "refused": "red", "skipped": "dim"}

_MOST = 20
"""Rows of a table; the report in JSON has all."""


def preflight_tables(report: Preflight, plain: Callable[[str], str]) -> Iterator[Table | str]:
    """Yield what to print, one below the other.

    Args:
        report: What was found.
        plain: Makes text of the user's safe for a terminal.
    """
    if report.checkpoints:
        table = plain_table("Checkpoints", "file", "format", "step", "stage", "optimiser")
        for heading in ("learning rate", "rates of its steps", "step mass"):
            table.add_column(heading)
        for one in report.checkpoints[:_MOST]:
            cells = (one.file, one.format, format_count(one.step), one.stage, one.optimizer)
            mass = format_number(one.step_mass)
            rate = format_number(one.learning_rate)
            table.add_row(*map(plain, (*cells, rate, one.rates, mass)))
        yield table
        yield from _more(len(report.checkpoints))
    if report.layers:
        table = plain_table("Parameters", "layer", "values", "share", "attributed")
        for layer in sorted(report.layers, key=lambda one: (not one.reason, -one.size))[:_MOST]:
            share = format_share(layer.share)
            attributed = f"no: {layer.reason}" if layer.reason else "yes"
            table.add_row(*map(plain, (layer.name, format_count(layer.size), share, attributed)))
        yield table
        yield from _more(len(report.layers))
    table = plain_table("Checks", "check", "", "found")
    for line in report.checks:
        status = f"[{_COLOURS[line.status]}]{line.status}[/]"
        table.add_row(plain(line.title), status, plain(line.text))
    yield table


def plain_table(title: str, *headings: str) -> Table:
    """Return a table without rows."""
    columns = (Column(heading, overflow="fold") for heading in headings)
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _more(count: int) -> Iterator[str]:
    if count > _MOST:
        yield f"… and {count - _MOST} more"
