"""Kedro hooks for the person at the terminal."""

import logging
import sys
from dataclasses import asdict
from types import TracebackType
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.validation import DataValidationError

from sourcetrace.core.errors import InputError
from sourcetrace.reporting.console import print_error, print_summary, print_verification
from sourcetrace.reporting.trust import trust_figure


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
        readable = _readable(error)
        if readable is None:
            return

        def show(
            kind: type[BaseException], value: BaseException, trace: TracebackType | None
        ) -> None:
            if _readable(value) is not None:
                print_error(str(readable))
            else:
                sys.__excepthook__(kind, value, trace)

        sys.excepthook = show


class SummaryHook:
    """Says at the end of a run what happened and where to look."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print the summary of an audit, and the demo's answer key where it was part of the run."""
        made = pipeline.all_outputs()
        if "verification_summary" in made:
            trust = trust_figure(catalog.load("verification_summary"))
            print_verification(asdict(trust), page=_path_of(catalog, "cleaning_report"))
            return
        if "audit_summary" not in made:
            return
        page = "demo_cleaning_report" if "demo_cleaning_report" in made else "cleaning_report"
        print_summary(
            catalog.load("audit_summary"),
            rankings=catalog.load("demo_rankings") if "demo_rankings" in made else None,
            page=_path_of(catalog, page),
            review_list=_path_of(catalog, "review_list_csv"),
        )


def _readable(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, InputError | DataValidationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _path_of(catalog: DataCatalog, name: str) -> str:
    dataset: Any = catalog[name]
    return str(getattr(dataset, "_filepath", ""))
