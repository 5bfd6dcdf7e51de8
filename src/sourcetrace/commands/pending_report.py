"""What `sourcetrace audit --pending` says: its plan, and what became of it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sourcetrace.formats import format_noun
from sourcetrace.tracking.scheduling.due_versions import PlannedVersion

_WIDTH_OF_A_LOG = 160

_COLOURS = {"pass": "green", "warn": "yellow", "inconclusive": "yellow"}


@dataclass(frozen=True)
class VersionResult:
    """What became of a planned version.

    Attributes:
        planned: The version.
        outcome: As in its tag `audit.status`; `error` without a verdict; None if not audited.
        exit_code: That its audit would have by itself.
        message: What went wrong.
        run_id: Of the audit's MLflow run.
        page: SHA-256 of its page.
        reports: Folder of its reports.
    """

    planned: PlannedVersion
    outcome: str | None = None
    exit_code: int = 0
    message: str = ""
    run_id: str | None = None
    page: str | None = None
    reports: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `--output json` prints of it."""
        planned = ("model", "version", "action", "reason", "checkpoints")
        own = ("outcome", "exit_code", "message", "run_id", "reports")
        return {name: getattr(self.planned, name) or None for name in planned} | {
            name: getattr(self, name) for name in own
        }


def print_plan(planned: Sequence[PlannedVersion]) -> None:
    """Print what is done with each version, and why; those left out for one reason in one row."""
    console = _console()
    due = sum(one.action == "audit" for one in planned)
    table = Table(title=f"{format_noun(due, 'version')} to audit", title_justify="left", box=None)
    for heading in ("model", "version", "", "why", "checkpoints"):
        table.add_column(heading, overflow="fold")
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
    console.print()
    console.print(table)
    _print_problems([(one, one.reason) for one in planned if one.action == "error"], console)


def print_results(results: Sequence[VersionResult]) -> None:
    """Print how each audit came out and where its reports are."""
    console = _console()
    told = [one for one in results if one.outcome is not None]
    console.print()
    if not told:
        console.print("Nothing to audit.")
        return
    table = Table(title="Audits", title_justify="left", box=None)
    for heading in ("model", "version", "outcome", "reports"):
        table.add_column(heading, overflow="fold")
    for one in told:
        outcome = one.outcome or ""
        in_mlflow = f"in MLflow's run {one.run_id}" if one.run_id else ""
        table.add_row(
            escape(one.planned.model),
            escape(one.planned.version),
            f"[{_COLOURS.get(outcome, 'red')}]{escape(outcome)}[/]",
            escape(one.reports or in_mlflow),
        )
    console.print(table)
    _print_problems([(one.planned, one.message) for one in told if one.message], console)


def _print_problems(problems: Sequence[tuple[PlannedVersion, str]], console: Console) -> None:
    for planned, message in problems:
        name = f"{planned.model} version {planned.version}" if planned.version else planned.model
        console.print(f"  [red]error:[/] {escape(name)}: {escape(message)}", soft_wrap=True)


def _console() -> Console:
    # A log has no width; without one, rich folds at 80 characters.
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_LOG)
