"""The last lines of the command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.formats import format_noun
from sourcetrace.reporting.changes import changes_sentence


def print_error(message: str) -> None:
    """Print what is wrong with an input, on standard error."""
    Console(stderr=True, highlight=False).print(f"\n[bold red]Error:[/] {escape(message)}")


def print_summary(
    summary: Mapping[str, Any],
    *,
    rankings: pl.DataFrame | None,
    page: str,
    review_list: str,
    console: Console | None = None,
) -> None:
    """Print what an audit found and where to look.

    Args:
        summary: What `summarise_audit` returned.
        rankings: The demo's answer key, a row a ranking; None outside the demo.
        page: Path of the page.
        review_list: Path of the list as CSV.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    actions = summary["actions"]
    console.print()
    runs = f" of {summary['runs']} training runs" if summary["runs"] > 1 else ""
    console.print(
        f"[bold]Audited {summary['training_examples']:,} training examples[/] with "
        f"{summary['queries']:,} queries: {summary['checkpoints']} checkpoints{runs} in "
        f"{format_noun(summary['segments'], 'segment')}, method {summary['method']}, "
        f"{summary['attributed_share']:.1%} of the parameters attributed."
    )
    suggested = f"{actions['relabel']} examples to relabel, {actions['check']} more to check."
    if summary["unstable"]:
        suggested += (
            f" The harm of {summary['unstable']} of these {actions['relabel'] + actions['check']} "
            "has no stable sign: too uncertain to act on without a look."
        )
    console.print(suggested)
    _print_trust(summary["trust"], console)
    if summary["suspects"]:
        console.print(_suspect_table(summary["suspects"]))
    if rankings is not None:
        for row in rankings.iter_rows(named=True):
            total = round(row["found_in_top"] / row["recall_in_top"]) if row["recall_in_top"] else 0
            share = total / summary["training_examples"]
            console.print(
                f"Planted errors in the top {share:.0%}: {row['found_in_top']} of {total} "
                f"({row['recall_in_top']:.1%}) by {row['ranking'][0].lower()}{row['ranking'][1:]}"
            )
    # soft_wrap: a path broken over two lines cannot be clicked or copied.
    console.print(f"Page:        {escape(_shown(page))}", soft_wrap=True)
    console.print(f"Review list: {escape(_shown(review_list))}", soft_wrap=True)
    console.print("MLflow:      kedro mlflow ui   (then http://127.0.0.1:5000)", soft_wrap=True)


def print_verification(
    trust: Mapping[str, str], *, page: str, console: Console | None = None
) -> None:
    """Print the trust figure and where the rest is.

    Args:
        trust: Fields of `reporting.trust.Trust`.
        page: Path of the page.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    console.print()
    _print_trust(trust, console)
    console.print(f"Page:        {escape(_shown(page))}", soft_wrap=True)


def print_verdict(report: GateReport, *, file: str, console: Console | None = None) -> None:
    """Print the gate's outcome, what was exceeded, and what was skipped and why.

    Args:
        report: The verdict.
        file: Path of gate.json.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    colour = {"pass": "green", "fail": "red"}.get(report.outcome, "yellow")
    console.print(f"[bold]Gate: [{colour}]{report.outcome}[/][/] – {escape(report.summary)}")
    skipped: dict[str, list[str]] = {}
    for check in report.checks:
        if check.status == "skipped":
            skipped.setdefault(check.reason, []).append(check.metric)
        elif check.status != "pass":
            console.print(f"  {check.status}: {escape(check.message)} {escape(check.advice)}")
    for reason, metrics in skipped.items():
        console.print(f"  skipped: {', '.join(metrics)} ({escape(reason)})")
    console.print(f"Checks:      {escape(_shown(file))}", soft_wrap=True)


def print_changes(found: Comparison, *, console: Console | None = None) -> None:
    """Print what changed since the audit before."""
    console = console or Console(highlight=False)
    console.print(f"[bold]Compared:[/] {escape(changes_sentence(found))}")


def _print_trust(trust: Mapping[str, str], console: Console) -> None:
    console.print(f"[bold]{escape(trust['status'])}:[/] {escape(trust['text'])}")
    if trust["command"]:
        console.print(f"Verify:      {escape(trust['command'])}", soft_wrap=True)


def _suspect_table(suspects: list[dict[str, Any]]) -> Table:
    table = Table(title="Top suspects", title_justify="left", box=None, pad_edge=False)
    for heading in ("#", "example", "label", "model says", "why"):
        table.add_column(heading, overflow="fold")
    for row in suspects:
        table.add_row(
            str(row["rank"]),
            escape(row["example_id"]),
            escape(row["given_label"] or "–"),
            escape(row["predicted_label"] or "–"),
            escape(row["reason"]),
        )
    return table


def _shown(path: str) -> str:
    """Return a path relative to the working directory where it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
