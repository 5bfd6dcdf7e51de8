"""Kedro hooks for the person at the terminal."""

import logging
import sys
from types import TracebackType

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.validation import DataValidationError

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.failure import GateFailed
from sourcetrace.audit.gate.report import GateReport
from sourcetrace.errors import InputError
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.reporting.console import Terminal, print_error
from sourcetrace.reporting.records import AuditSummary, GroundTruth
from sourcetrace.reporting.trust import Retraining


class ProjectFolderHook:
    """Lets a task live in a file in the project's folder."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Make the project's folder importable, behind everything installed."""
        # kedro-mlflow sets its own level while it is imported, after our logging.yml is read.
        logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)
        folder = str(context.project_path)
        if folder not in sys.path:
            sys.path.append(folder)


class ReadableErrorsHook:
    """Ends the command with the message of a wrong input instead of a traceback."""

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Replace the traceback where the error is one that a user is meant to read."""
        show_readable_error(error)


class SummaryHook:
    """Says at the end of a run what happened and where to look."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print the summary of what was run, and the gate's verdict."""
        made, audit = _summarise(pipeline, catalog)
        if "gate_report" in made:
            report = GateReport.model_validate(audit.load("gate_report"))
            Terminal().print_verdict(report, file=_path_of(audit, "gate_report"))

    @hook_impl
    def on_pipeline_error(self, error: Exception, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print the summary of a run whose gate failed: it is complete; the error says the rest."""
        if isinstance(error, GateFailed):
            _summarise(pipeline, catalog)


class VerdictHook:
    """Lets a failed gate speak for itself.

    Kedro would log the verdict as a failed node and say how to resume the run, which is complete.
    """

    _LOGGERS = ("kedro.pipeline.node", "kedro.runner")

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Silence Kedro's remarks on the node that raises."""
        if node.name.rpartition(".")[2] == "enforce_gate":
            self._set_level(logging.CRITICAL)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Let Kedro speak again."""
        self._set_level(logging.NOTSET)

    on_pipeline_error = after_pipeline_run

    def _set_level(self, level: int) -> None:
        for name in self._LOGGERS:
            logging.getLogger(name).setLevel(level)


def show_readable_error(error: BaseException) -> None:
    """Have the process end with the message of an error, where a user is meant to read it."""
    readable = readable_error(error)
    if readable is None:
        return

    def show(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if readable_error(value) is not None:
            print_error(str(readable))
        else:
            sys.__excepthook__(kind, value, trace)

    sys.excepthook = show


def readable_error(error: BaseException | None) -> BaseException | None:
    """Return the error behind an error that a user is meant to read; None where there is none."""
    while error is not None:
        if isinstance(error, InputError | DataValidationError | GateFailed):
            return error
        error = error.__cause__ or error.__context__
    return None


def _summarise(pipeline: Pipeline, catalog: DataCatalog) -> tuple[set[str], AuditCatalog]:
    """Print the summary of an audit, with the demo's answer key, and what changed since the last.

    Returns:
        What the pipeline writes, and where it is.
    """
    names = AuditNames.of(pipeline)
    made, audit, terminal = names.made_by(pipeline), AuditCatalog(catalog, names), Terminal()
    if "verification_summary" in made:
        trust = Retraining(audit.load("verification_summary")).figure()
        terminal.print_verification(trust, page=_path_of(audit, "cleaning_report"))
    elif "audit_summary" in made:
        truth = audit.load("ground_truth") if "ground_truth" in made else None
        terminal.print_summary(
            AuditSummary.model_validate(audit.load("audit_summary")),
            ground_truth=None if truth is None else GroundTruth.model_validate(truth),
            page=_path_of(audit, "cleaning_report"),
            review_list=_path_of(audit, "review_list_csv"),
        )
    if "comparison_summary" in made:
        terminal.print_changes(Comparison.from_json(audit.load("comparison_summary")))
    return made, audit


def _path_of(audit: AuditCatalog, name: str) -> str:
    return str(getattr(audit[name], "_filepath", ""))
