"""What the person at the terminal is told, of errors and of results."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import get_args

from kedro.validation import DataValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.report import GateFailed, GateReport
from sourcetrace.errors import InputError
from sourcetrace.formats import (
    MISSING,
    format_duration,
    format_noun,
    safe_text,
    shorten,
    with_environment,
)
from sourcetrace.hooks.preflight_tables import plain_table, preflight_tables
from sourcetrace.reporting.preflight import Preflight, Status
from sourcetrace.reporting.records import AuditStatus, AuditSummary, GroundTruth, Trust
from sourcetrace.reporting.templating import plain_words

_ACTIVATED = shutil.which("kedro") is not None
"""Whether commands are found by their names."""

_FULL = "No space left on device", "Disk quota exceeded"


def is_no_vain_advice(record: logging.LogRecord) -> bool:
    """Return whether a line of Kedro's stands: not to repeat a command that is refused, nor why.

    It is logged while the error is handled, which is told at the end.
    """
    vain = record.getMessage().startswith(("No nodes ran.", "Node "))
    return not (vain and readable_error(sys.exc_info()[1]))


def show_readable_error(error: BaseException) -> None:
    """Have the process end with the message of an error, where a user is meant to read it."""
    readable = readable_error(error)
    if readable is None:
        return

    def show(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if readable_error(value) is not None:
            Terminal.print_error(str(readable))
        else:
            sys.__excepthook__(kind, value, trace)

    sys.excepthook = show


@contextmanager
def input_errors_shown() -> Iterator[None]:
    """Have the process end with the message alone of an input's error that is raised within.

    For hooks outside of a node, of whose errors Kedro tells no hook.
    """
    try:
        yield
    except InputError as error:
        show_readable_error(error)
        raise


def readable_error(error: BaseException | None) -> BaseException | None:
    """Return the error behind an error that a user is meant to read; None where there is none."""
    while error is not None:
        if isinstance(error, InputError | DataValidationError | GateFailed):
            return error
        if _is_out_of_memory(error):
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            return InputError(
                f"Memory ran out ({reason}). Give the process more, set gradients.batch_size lower "
                "or gradients.cache to disk, audit fewer checkpoints, or freeze layers that need "
                "no attribution; `kedro run --pipelines preflight` says what an audit takes."
            )
        error, last = error.__cause__ or error.__context__, error
        # Polars and safetensors have errors of their own, which others' messages repeat.
        full = next((words for words in _FULL if words in str(last)), None)
        if error is None and full:
            return InputError(
                f"{full} ({str(last).splitlines()[0]}). Make room and run it again: units of work "
                "that are done are kept."
            )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    # By name, as core.machine.halving does: torch may not be imported here.
    named = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return named or isinstance(error, MemoryError)


class Terminal:
    """Where a run says how it came out; standard output by default.

    Attributes:
        environment: The command's, which the commands that are printed shall have.
    """

    environment = ""

    def __init__(self, console: Console | None = None) -> None:
        self._print = (console or Console(highlight=False)).print

    @staticmethod
    def print_error(message: str) -> None:
        """Print what is wrong with an input, on standard error."""
        Console(stderr=True, highlight=False).print(f"\n[bold red]Error:[/] {_plain(message)}")

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
        suggested = plain_words("result", summary)
        if summary.unstable:
            suggested += (
                f" For {summary.unstable} of these {summary.suspect_count} even the sign of the "
                "gain is uncertain: look before you act."
            )
        self._print(suggested)
        if summary.kept_curvature:
            self._print(summary.kept_curvature)
        if summary.set_aside:
            self._print(plain_words("set_aside", summary.set_aside))
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
        activate = Path(sys.executable).with_name("activate")
        if not _ACTIVATED and activate.exists():
            self._print_path("Before these commands: source", str(activate))

    def print_preflight(self, report: Preflight, *, file: str) -> None:
        """Print every check and what it found.

        Args:
            report: What was found.
            file: Path of preflight.json.
        """
        for one in preflight_tables(report, _plain):
            self._print()
            self._print(one)
        counts = (f"{len(report.titles(one))} {one}" for one in get_args(Status))
        self._print(f"\n[bold]Preflight:[/] {', '.join(counts)}, in {report.seconds:.1f} s")
        self._print_path("Report:", file)

    def print_status(self, status: AuditStatus) -> None:
        """Print what is done of an audit, and what a run would do."""
        table = plain_table("What is done", "stage", "state", "a run would", "in one process")
        for one in status.stages:
            seconds = format_duration(one.seconds) if one.seconds else MISSING
            table.add_row(*map(_plain, (one.stage, one.state, one.run, seconds)))
        self._print()
        self._print(table)
        looked = "Every byte was read." if status.checked else "No result was read (status.check)."
        removed = "A run removes nothing."
        if status.left:
            left = format_noun(status.left, "unit")
            removed = (
                f"Of other audits {left} are in {status.folder}; a run keeps the last audits' "
                "(launch.kept_audits) and removes no other file."
            )
        self._print(_plain(f"\n{looked} {removed}"))

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

    def print_sentences(self, sentences: Iterable[str], *, files: Mapping[str, str]) -> None:
        """Print what a record says, and the files that are there: name -> path."""
        self._print()
        for sentence in sentences:
            self._print(_plain(sentence))
        for name, path in files.items():
            if Path(path).exists():
                self._print_path(name, path)

    def print_changes(self, found: Comparison) -> None:
        """Print what changed since the audit before."""
        self._print(f"[bold]Compared:[/] {_plain(plain_words('changes', found))}")

    def _print_trust(self, trust: Trust) -> None:
        self._print(f"[bold]{trust.status}:[/] {_plain(trust.text)}")
        if trust.command:
            self._print(f"Verify:      {_plain(trust.command)}", soft_wrap=True)

    def _print_path(self, name: str, path: str) -> None:
        """Print a path, relative to the working directory where it lies below it."""
        if Path(path).is_relative_to(Path.cwd()):
            path = str(Path(path).relative_to(Path.cwd()))
        # soft_wrap: a path broken over two lines cannot be clicked or copied.
        self._print(f"{name:12} {_plain(path)}", soft_wrap=True)


def _suspect_table(summary: AuditSummary) -> Table:
    titles = {"given_label": "label", "predicted_label": "model says"}
    known = [name for name in titles if any(getattr(row, name) for row in summary.suspects)]
    headings = ("#", "example", *(titles[name] for name in known), "why")
    table = plain_table("Top suspects", *headings)
    for row in summary.suspects:
        cells = (row.example_id, *(getattr(row, name) or "–" for name in known))
        table.add_row(str(row.rank), *(_plain(shorten(cell)) for cell in cells), _plain(row.reason))
    return table


def _plain(text: str) -> str:
    """Return text that a terminal shows and does not obey."""
    return escape(safe_text(with_environment(text, Terminal.environment)))
