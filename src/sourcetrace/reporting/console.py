"""The last lines of the command."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.formats import format_noun, safe_text, shorten
from sourcetrace.reporting.changes import changes_sentence
from sourcetrace.reporting.records import AuditSummary, GroundTruth, Trust


def print_error(message: str) -> None:
    """Print what is wrong with an input, on standard error."""
    Console(stderr=True, highlight=False).print(f"\n[bold red]Error:[/] {_plain(message)}")


class Terminal:
    """Where a run says how it came out; standard output by default."""

    def __init__(self, console: Console | None = None) -> None:
        self._print = (console or Console(highlight=False)).print

    def print_summary(
        self,
        summary: AuditSummary,
        *,
        ground_truth: GroundTruth | None,
        page: str,
        review_list: str,
    ) -> None:
        """Print what an audit found and where to look.

        Args:
            summary: What was found.
            ground_truth: How early planted errors are found; None where nobody planted any.
            page: Path of the page.
            review_list: Path of the list as CSV.
        """
        runs = f" of {summary.runs} training runs" if summary.runs > 1 else ""
        self._print(
            f"\n[bold]Audited {summary.training_examples:,} training examples[/] with "
            f"{summary.queries:,} queries: {summary.checkpoints} checkpoints{runs} in "
            f"{format_noun(summary.segments, 'segment')}, method {summary.method}, "
            f"{summary.attributed_share:.1%} of the parameters attributed."
        )
        suggested = (
            f"{summary.actions['relabel']} examples to relabel, {summary.actions['check']} more to "
            "check."
        )
        if summary.says_nothing:
            suggested = "Every score is 0: the loss has no gradient, and nothing can be said."
        if summary.unstable:
            suggested += (
                f" The harm of {summary.unstable} of these {summary.suspect_count} "
                "has no stable sign: too uncertain to act on without a look."
            )
        self._print(suggested)
        self._print_trust(summary.trust)
        if summary.suspects:
            self._print(_suspect_table(summary))
        if ground_truth is not None:
            planted = ground_truth.planted
            for ranking in ground_truth.rankings:
                self._print(
                    f"Planted errors in the top {planted / ground_truth.examples:.0%}: "
                    f"{ranking.found} of {planted} ({ranking.found / max(1, planted):.1%}) by "
                    f"{ranking.name[0].lower()}{ranking.name[1:]}"
                )
        self._print_path("Page:", page)
        self._print_path("Review list:", review_list)
        self._print("MLflow:      kedro mlflow ui   (then http://127.0.0.1:5000)", soft_wrap=True)

    def print_verification(self, trust: Trust, *, page: str) -> None:
        """Print the trust figure and where the rest is: the path of the page."""
        self._print()
        self._print_trust(trust)
        self._print_path("Page:", page)

    def print_verdict(self, report: GateReport, *, file: str) -> None:
        """Print the gate's outcome, what was exceeded, and what was skipped and why.

        Args:
            report: The verdict.
            file: Path of gate.json.
        """
        colour = {"pass": "green", "fail": "red"}.get(report.outcome, "yellow")
        self._print(f"[bold]Gate: [{colour}]{report.outcome}[/][/] – {_plain(report.summary)}")
        skipped: dict[str, list[str]] = {}
        for check in report.checks:
            if check.status == "skipped":
                skipped.setdefault(check.reason, []).append(check.metric)
            elif check.status != "pass":
                self._print(f"  {check.status}: {_plain(f'{check.message} {check.advice}')}")
        for reason, metrics in skipped.items():
            self._print(f"  skipped: {', '.join(metrics)} ({_plain(reason)})")
        self._print_path("Checks:", file)

    def print_changes(self, found: Comparison) -> None:
        """Print what changed since the audit before."""
        self._print(f"[bold]Compared:[/] {_plain(changes_sentence(found))}")

    def _print_trust(self, trust: Trust) -> None:
        self._print(f"[bold]{trust.status}:[/] {_plain(trust.text)}")
        if trust.command:
            self._print(f"Verify:      {trust.command}", soft_wrap=True)

    def _print_path(self, name: str, path: str) -> None:
        """Print a path, relative to the working directory where it lies below it."""
        if Path(path).is_relative_to(Path.cwd()):
            path = str(Path(path).relative_to(Path.cwd()))
        # soft_wrap: a path broken over two lines cannot be clicked or copied.
        self._print(f"{name:12} {_plain(path)}", soft_wrap=True)


def _suspect_table(summary: AuditSummary) -> Table:
    table = Table(title="Top suspects", title_justify="left", box=None, pad_edge=False)
    for heading in ("#", "example", "label", "model says", "why"):
        table.add_column(heading, overflow="fold")
    for row in summary.suspects:
        given, predicted = row.given_label or "–", row.predicted_label or "–"
        cells = (row.example_id, given, predicted)
        table.add_row(str(row.rank), *(_plain(shorten(cell)) for cell in cells), _plain(row.reason))
    return table


def _plain(text: str) -> str:
    """Return text that a terminal shows and does not obey."""
    return escape(safe_text(text))
