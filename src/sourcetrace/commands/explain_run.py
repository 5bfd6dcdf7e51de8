"""Queries of the project in this folder explained, behind its audit."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from sourcetrace.formats import format_known
from sourcetrace.interruption import Interrupted
from sourcetrace.locks import PROJECT_LOCK, RUN_LOCK
from sourcetrace.opened import catalog_entries, explain_stored
from sourcetrace.reporting.explanation import Asked, Explanations
from sourcetrace.reporting.queries.view import Measurement

_PACKAGE, _PIPELINE = "sourcetrace", "explain"


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
        found = None
        # What is typed may be misspelt, which a hook of Kedro's session notices.
        if pipeline == _PIPELINE and not params and _is_own_project():
            found = _from_files(asked, env)
        return found or _by_kedro(asked, params=params, env=env, pipeline=pipeline, verbose=verbose)
    except (KeyboardInterrupt, click.Abort, Interrupted):
        raise
    except (Exception, SystemExit) as error:
        from sourcetrace.commands.project import print_error

        print_error(error, verbose=verbose, env=env)
        return None


def _is_own_project() -> bool:
    """Return whether this folder's catalog is read with this package's settings."""
    if not Path("conf").is_dir():
        return False
    try:
        tool = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return True
    package: str = tool.get("kedro", {}).get("package_name", _PACKAGE)
    return package == _PACKAGE


def _from_files(asked: Asked, env: str | None) -> Explanations | None:
    """Explain without Kedro's session, which imports MLflow, where stored tables say it all."""
    from kedro.framework.context.context import _convert_paths_to_absolute_posix
    from kedro.io import DataCatalog

    here = Path.cwd()
    # The task's module is read, not imported: stored results are checked against its code.
    sys.path.insert(0, str(here / "src"))
    sys.path.append(str(here))
    # As Kedro's session does, in a task's arguments too: the stored results are made of those.
    entries = _convert_paths_to_absolute_posix(here, catalog_entries(here, env))
    if _needs_credentials(entries):
        return None
    with PROJECT_LOCK.kept():
        _wait(Path(entries["audit_log"]["filepath"]))

        def load(name: str) -> Any:
            return DataCatalog.from_config({name: entries[name]}).load(name)

        return None if _has_pictures(load, asked) else _stored(load, asked)


def _needs_credentials(entry: Any) -> bool:
    """Return whether a catalog, or an entry, names any, which Kedro's session knows."""
    if not isinstance(entry, dict):
        return False
    return "credentials" in entry or any(map(_needs_credentials, entry.values()))


def _stored(load: Callable[[str], Any], asked: Asked) -> Explanations | None:
    """Return what stored tables say; None where passes are wanted, or a query is not of the audit.

    Args:
        load: Returns an entry of the audit's catalog.
        asked: Which queries, and how.
    """
    if asked.source is not None or asked.tokens:
        return None
    if asked.tokens is None and Measurement.model_validate(load("measurement")).by_token:
        return None
    return explain_stored(load, asked.queries, asked.strongest)


def _has_pictures(load: Callable[[str], Any], asked: Asked) -> bool:
    """Return whether pictures are wanted, of a task that draws any."""
    return asked.pictures and any(load(f"{of}_pictures").height for of in ("strongest", "query"))


def _drawn(load: Callable[[str], Any], asked: Asked, found: Explanations) -> Explanations:
    if not _has_pictures(load, asked):
        return found
    from sourcetrace.reporting.queries.pages import pictured

    queries = load("query_table")
    own = queries if asked.source is None else queries.clear()
    return pictured(found, load("task"), load("train_table"), own)


def _wait(log: Path) -> None:
    """Wait for the end of a run that writes what is read."""
    PROJECT_LOCK.acquire(log.with_name(RUN_LOCK), wait=True)


def _by_kedro(
    asked: Asked, *, params: Sequence[str], env: str | None, pipeline: str, verbose: bool
) -> Explanations:
    from kedro.framework.project import pipelines
    from kedro.framework.session import KedroSession
    from kedro.io import MemoryDataset
    from kedro.runner import SequentialRunner

    from sourcetrace.commands.project import run_command_here
    from sourcetrace.namespace import AuditCatalog, AuditNames

    command = run_command_here(verbose=verbose)
    if pipeline not in pipelines:
        raise click.ClickException(
            f"There is no pipeline {pipeline}. {format_known(pipeline, pipelines)}. In a project "
            "of your own, register what sourcetrace.pipelines.audit.create_explain makes."
        )
    arguments = ["--params", ",".join(params)] if params else []
    given = command.make_context("run", arguments).params["params"]
    session: Any = KedroSession.create(Path.cwd(), env=env, runtime_params=given)
    with session, PROJECT_LOCK.kept():
        catalog = session.load_context().catalog
        made_of = pipelines[pipeline]
        names = AuditNames.of(made_of)
        audit = AuditCatalog(catalog, names)
        if "audit_log" in audit:
            _wait(audit.log)
        stored = _stored(audit.load, asked)
        if stored is not None:
            return _drawn(audit.load, asked, stored)
        catalog[names.full("asked")] = MemoryDataset(asked)
        # By the runner alone: this is no run of an audit, for hooks and MLflow to tell of.
        made = SequentialRunner().run(made_of, catalog)
        return _drawn(audit.load, asked, made[names.full("explanations")].load())
