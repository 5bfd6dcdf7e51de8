"""Queries of the project in this folder explained, behind its audit."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click
from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.io import MemoryDataset
from kedro.runner import SequentialRunner

from sourcetrace.commands.project import configure_project_here, print_error
from sourcetrace.formats import format_known
from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.reporting.explanation import Asked, Explanations


def explained(
    asked: Asked, *, params: Sequence[str], env: str | None, pipeline: str, verbose: bool
) -> Explanations | None:
    """Return what was found; None where an error was printed.

    Args:
        asked: Which queries, and how.
        params: Parameters, as they are typed.
        env: Configuration environment.
        pipeline: Name of the pipeline.
        verbose: Whether to show the traceback of an error.
    """
    try:
        package = configure_project_here()
        if not verbose:
            # The command itself says what went wrong, once and at the end.
            logging.getLogger("kedro").setLevel(logging.CRITICAL)
        return _run(asked, package=package, params=params, env=env, pipeline=pipeline)
    except (KeyboardInterrupt, click.Abort):
        raise
    except (Exception, SystemExit) as error:
        print_error(error, verbose=verbose)
        return None


def _run(
    asked: Asked, *, package: str, params: Sequence[str], env: str | None, pipeline: str
) -> Explanations:
    if pipeline not in pipelines:
        raise click.ClickException(
            f"There is no pipeline {pipeline}. {format_known(pipeline, pipelines)}. In a project "
            "of your own, register what sourcetrace.pipelines.audit.create_explain makes."
        )
    command = cast(click.Command, find_run_command(package))
    arguments = ["--params", ",".join(params)] if params else []
    given = command.make_context("run", arguments).params["params"]
    session: Any = KedroSession.create(Path.cwd(), env=env, runtime_params=given)
    with session, PROJECT_LOCK.kept():
        catalog = session.load_context().catalog
        made_of = pipelines[pipeline]
        names = AuditNames.of(made_of)
        audit = AuditCatalog(catalog, names)
        if "audit_log" in audit:
            PROJECT_LOCK.acquire(audit.log.with_name(RUN_LOCK), wait=True)
        catalog[names.full("asked")] = MemoryDataset(asked)
        # By the runner alone: this is no run of an audit, for hooks and MLflow to tell of.
        made = SequentialRunner().run(made_of, catalog)
    found: Explanations = made[names.full("explanations")].load()
    return found
