"""`sourcetrace audit --pending`: every registered version that needs an audit, one after the other.

Each audit is a process of its own, so that none takes the others down. What must not happen twice
at a time is behind locks that end with their process: `LOCK` for this command, `RUN_LOCK` for the
runs.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import pipelines as registered
from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog
from mlflow.tracking import MlflowClient

from sourcetrace.audit.gate.report import OUTCOMES
from sourcetrace.audit.identity.audit_key import AuditKey
from sourcetrace.commands.audit_process import run_audit
from sourcetrace.commands.options import ERROR, EXIT_CODES, FAILED, INCONCLUSIVE, PASSED
from sourcetrace.commands.pending_report import print_plan, print_results
from sourcetrace.datasets.entries import with_entries
from sourcetrace.interruption import ended_in_order
from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK, HeldLock
from sourcetrace.namespace import AuditCatalog, AuditNames
from sourcetrace.parameters import CheckpointParameters
from sourcetrace.redaction import error_line
from sourcetrace.tracking.history.kept_reports import keep_reports
from sourcetrace.tracking.lineage.model_version import STATUS
from sourcetrace.tracking.lineage.read_parameters import read_tracking
from sourcetrace.tracking.lineage.send import Sender
from sourcetrace.tracking.places.local import fetch_checkpoints, open_local
from sourcetrace.tracking.scheduling.due_versions import plan_audits
from sourcetrace.tracking.scheduling.planned_version import PlannedVersion
from sourcetrace.tracking.scheduling.task_reader import TaskReader
from sourcetrace.tracking.server.waiting_run import FOLDER
from sourcetrace.validation import validated

logger = logging.getLogger(__name__)

LOCK = "pending_audits.lock"
"""Beside the history of audits; held by this command."""

WORST_FIRST = (ERROR, FAILED, INCONCLUSIVE, PASSED)
"""Of several exit codes the first of these decides."""


def audit_pending(
    given: Mapping[str, Any],
    *,
    env: str | None,
    pipelines: Sequence[str],
    dry_run: bool,
    force: bool,
    verbose: bool,
) -> tuple[list[dict[str, Any]], int]:
    """Audit what needs it, and return what became of each version, and the exit code.

    Args:
        given: Parameters of the command line, for all versions.
        env: Configuration environment.
        pipelines: What an audit runs; `audit` is among them.
        dry_run: Whether to end after the plan.
        force: Whether versions are audited that need no audit.
        verbose: Whether the audits show the traceback of an error.

    Raises:
        click.ClickException: If nothing can be planned.
    """
    if "audit" not in pipelines:
        raise click.ClickException(
            f"--pending audits anew: --pipelines {','.join(pipelines)} lacks audit."
        )
    if namespace := AuditNames.of(registered["audit"]).namespace:
        raise click.ClickException(
            f"--pending knows audits without a namespace; this project's is {namespace}. Audit one "
            "version at a time: sourcetrace audit --params "
            f"{namespace}.tracking.registered_model.name=…,"
            f"{namespace}.tracking.registered_model.version=…"
        )
    session: Any = KedroSession.create(env=env, runtime_params=dict(given))
    with session:
        # kedro-mlflow names the server while the context is made.
        context = session.load_context()
        catalog = context.catalog
        log: Path = catalog["audit_log"].path
        lock = HeldLock()
        if dry_run:
            planned = _plan(context, given, force=force)
            return [one.to_json() for one in planned], PASSED
        if not lock.acquire(log.with_name(LOCK), wait=False):
            click.echo(
                f"`audit --pending` runs in this project already: "
                f"{HeldLock.holder_of(log.with_name(LOCK))}. Nothing was started."
            )
            return [], PASSED
        with lock.kept(), ended_in_order():
            # An audit whose `--pending` was killed goes on: what it audits must not be planned.
            PROJECT_LOCK.acquire(log.with_name(RUN_LOCK), wait=True)
            PROJECT_LOCK.release()
            try:
                # Of the audits that MLflow missed none need be repeated.
                Sender(MlflowClient()).send_all(log.parent / FOLDER)
            except Exception as error:
                logger.warning(
                    "Audits that MLflow was not told of yet could not be sent: %s",
                    error_line(error),
                )
            planned = _plan(context, given, force=force)
            audit = partial(run_audit, env=env, pipelines=pipelines, verbose=verbose)
            results = list(_audit_all(planned, catalog, audit))
            print_results(results)
    code = min((one.exit_code for one in results), key=WORST_FIRST.index, default=PASSED)
    return [one.to_json() for one in results], code


def _plan(context: Any, given: Mapping[str, Any], *, force: bool) -> list[PlannedVersion]:
    tracking = read_tracking(AuditCatalog(context.catalog, AuditNames()))
    if not tracking.pending:
        raise click.ClickException(
            "tracking.pending names no model. Name the registered models whose versions are to be "
            "audited in conf/base/parameters_tracking.yml."
        )
    planned = plan_audits(
        MlflowClient(),
        tracking.pending,
        current_key=partial(_current_key, context, TaskReader(context.project_path)),
        given=given,
        force=force,
    )
    print_plan(planned)
    return planned


def _current_key(context: Any, reader: TaskReader, own: Mapping[str, Any]) -> AuditKey:
    """Return what an audit with some parameters of its own would be of now."""
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=context.config_loader.conf_source,
        env=context.env,
        runtime_params=dict(own),
        **settings.CONFIG_LOADER_ARGS,
    )
    parameters: Mapping[str, Any] = loader["parameters"]
    named = validated(CheckpointParameters, parameters["checkpoints"], name="checkpoints")
    return AuditKey.of(
        parameters,
        checkpoints=open_local(fetch_checkpoints(named)).digests(),
        **reader.read(with_entries(parameters["task"])),
    )


def _audit_all(
    planned: Sequence[PlannedVersion],
    catalog: DataCatalog,
    audit: Callable[[Mapping[str, Any]], int],
) -> Iterator[PlannedVersion]:
    due = [one for one in planned if one.action == "audit"]
    for one in planned:
        if one.action == "error":
            yield replace(one, outcome="error", exit_code=ERROR, message=one.reason)
        elif one.action == "skip":
            yield one
        else:
            place = due.index(one) + 1
            click.echo(f"\n{place} of {len(due)}: {one.model} version {one.version}")
            ended = _audit_one(one, audit)
            if ended.outcome in OUTCOMES:
                kept = keep_reports(catalog, one.model, one.version, page_sha256=ended.page)
                ended = replace(ended, reports=kept)
            yield ended


def _audit_one(
    planned: PlannedVersion, audit: Callable[[Mapping[str, Any]], int]
) -> PlannedVersion:
    """Run the audit of a version, and read in the registry how it came out."""
    failed = replace(planned, outcome="error", exit_code=ERROR)
    client = MlflowClient()
    try:
        before = client.get_model_version(planned.model, planned.version).tags
        code = audit(planned.parameters)
        tags = client.get_model_version(planned.model, planned.version).tags
    except Exception as error:
        return replace(failed, message=error_line(error))
    if code not in (PASSED, FAILED, INCONCLUSIVE):
        return replace(failed, message=_ending_of(code))
    status, run_id = tags.get(STATUS), tags.get("audit.run_id")
    if run_id == before.get("audit.run_id") or status not in OUTCOMES:
        return replace(
            failed, message="MLflow was not told of the audit; send it with sourcetrace sync"
        )
    return replace(
        planned,
        outcome=status,
        # Exchanged training data fails a version whose gate passed.
        exit_code=min(code, EXIT_CODES[status], key=WORST_FIRST.index),
        run_id=run_id,
        page=tags.get("audit.report_sha256"),
    )


def _ending_of(code: int) -> str:
    """Say how an audit without a verdict ended."""
    if code >= 0:
        return "no verdict: its messages above say why"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{memory}"
