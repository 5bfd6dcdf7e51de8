"""The end of a run at the terminal."""

import logging

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from sourcetrace.audit.comparison.summary import Comparison
from sourcetrace.audit.gate.report import GateFailed, GateReport
from sourcetrace.hooks.terminal import Terminal, show_readable_error
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.reporting.cleaning import MeasuredCleaning
from sourcetrace.reporting.decided import DecisionSummary
from sourcetrace.reporting.preflight import Preflight, PreflightRefused
from sourcetrace.reporting.records import AuditSummary, GroundTruth
from sourcetrace.reporting.trust import Retraining


class TerminalHook:
    """Says at the end of a run what happened and where to look, or what to change.

    A failed gate speaks for itself: Kedro would log the verdict as a failed node and say how to
    resume the run, which is complete.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the command's environment, which the commands that are printed shall have."""
        Terminal.environment = context.env or ""

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Silence Kedro's remarks on the node that raises the verdict."""
        if node.name.rpartition(".")[2] in {"enforce_gate", "enforce_preflight"}:
            _set_level(logging.CRITICAL)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print the summary of what was run, and the gate's verdict."""
        _set_level(logging.NOTSET)
        made, audit = _summarise(pipeline, catalog)
        if "gate_report" in made:
            report = GateReport.model_validate(audit.load("gate_report"))
            Terminal().print_verdict(report, file=_path_of(audit, "gate_report"))

    @hook_impl
    def on_pipeline_error(self, error: Exception, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print the summary of a run whose gate failed: it is complete; the error says the rest."""
        _set_level(logging.NOTSET)
        show_readable_error(error)
        if isinstance(error, GateFailed | PreflightRefused):
            _summarise(pipeline, catalog)


def _summarise(pipeline: Pipeline, catalog: DataCatalog) -> tuple[set[str], AuditCatalog]:
    """Print the summary of an audit, with the demo's answer key, and what changed since the last.

    Returns:
        What the pipeline writes, and where it is.
    """
    names = AuditNames.of(pipeline)
    made, audit, terminal = names.made_by(pipeline), AuditCatalog(catalog, names), Terminal()
    if "preflight_report" in made:
        report = Preflight.from_json(audit.load("preflight_report"))
        terminal.print_preflight(report, file=_path_of(audit, "preflight_report"))
    if "audit_status" in made:
        terminal.print_status(audit.load("audit_status"))
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
    if "decision_summary" in made:
        terminal.print_sentences(
            DecisionSummary.from_json(audit.load("decision_summary")).sentences(),
            files={
                "Cleaned:": _path_of(audit, "cleaned_data"),
                "Sample:": _path_of(audit, "review_sample"),
            },
        )
    if "cleaning_result" in made:
        terminal.print_sentences(
            MeasuredCleaning.from_json(audit.load("cleaning_result")).sentences(),
            files={"Page:": _path_of(audit, "cleaning_report")},
        )
    if "comparison_summary" in made:
        terminal.print_changes(Comparison.from_json(audit.load("comparison_summary")))
    return made, audit


def _set_level(level: int) -> None:
    for name in ("kedro.pipeline.node", "kedro.runner"):
        logging.getLogger(name).setLevel(level)


def _path_of(audit: AuditCatalog, name: str) -> str:
    return str(getattr(audit[name], "_filepath", ""))
