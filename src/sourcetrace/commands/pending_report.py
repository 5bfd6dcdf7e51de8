"""What `sourcetrace audit --pending` says: its plan, and what became of it."""

import sys
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sourcetrace.formats import format_noun
from sourcetrace.tracking.scheduling.planned_version import PlannedVersion

_WIDTH_OF_A_LOG = 160

_COLOURS = {"pass": "green", "warn": "yellow", "inconclusive": "yellow"}


def print_plan(planned: Sequence[PlannedVersion]) -> None:
    """Print what is done with each version, and why; those left out for one reason in one row."""
    due = sum(one.action == "audit" for one in planned)
    table = _table(
        f"{format_noun(due, 'version')} to audit", "model", "version", "", "why", "checkpoints"
    )
    for (model, action, reason), group in groupby(
        planned, key=lambda one: (one.model, one.action, one.reason)
    ):
        rows = list(group)
        if action == "skip" and len(rows) > 1:
            numbers = f"{rows[0].version} to {rows[-1].version}"
            table.add_row(escape(model), numbers, action, escape(reason), "")
            continue
        for one in rows:
            style = {"audit": "bold", "error": "red"}.get(action)
            why = reason if action != "error" else "see below"
            table.add_row(
                *map(escape, (model, one.version, action, why, one.checkpoints)), style=style
            )
    _print(table, [(one, one.reason) for one in planned if one.action == "error"])


def print_results(results: Sequence[PlannedVersion]) -> None:
    """Print how each audit came out and where its reports are."""
    told = [one for one in results if one.outcome is not None]
    table = _table("Audits", "model", "version", "outcome", "reports")
    for one in told:
        outcome = one.outcome or ""
        in_mlflow = f"in MLflow's run {one.run_id}" if one.run_id else ""
        table.add_row(
            escape(one.model),
            escape(one.version),
            f"[{_COLOURS.get(outcome, 'red')}]{escape(outcome)}[/]",
            escape(one.reports or in_mlflow),
        )
    problems = [(one, one.message) for one in told if one.message]
    _print(table if told else "Nothing to audit.", problems)


def _table(title: str, *headings: str) -> Table:
    columns = (Column(heading, overflow="fold") for heading in headings)
    return Table(*columns, title=title, title_justify="left", box=None)


def _print(what: Table | str, problems: Sequence[tuple[PlannedVersion, str]]) -> None:
    # A log has no width; without one, rich folds at 80 characters.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_LOG)
    console.print()
    console.print(what)
    for planned, message in problems:
        name = f"{planned.model} version {planned.version}" if planned.version else planned.model
        console.print(f"  [red]error:[/] {escape(name)}: {escape(message)}", soft_wrap=True)
