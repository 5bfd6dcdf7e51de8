"""Pipelines of the project in this folder, run to a verdict, and whoever is to know told of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import mlflow
from kedro.framework.project import pipelines

from sourcetrace.audit.gate.report import GateFailed
from sourcetrace.commands.options import ERROR, EXIT_CODES
from sourcetrace.commands.project import print_error, run_command_here
from sourcetrace.configuration import merge_parameters, read_parameters
from sourcetrace.hooks.misspelt import refuse_unknown_pipelines
from sourcetrace.integrations.alerts.outbox import OUTBOX
from sourcetrace.interruption import Interrupted
from sourcetrace.locks import PROJECT_LOCK
from sourcetrace.namespace import AuditNames

_JUDGING_NODE = "enforce_gate"


def run_and_tell(
    names: Sequence[str],
    *,
    typed: Sequence[str],
    params_file: Path | None,
    env: str | None,
    pending: Mapping[str, bool] | None,
    verbose: bool,
) -> tuple[Any, int]:
    """Run pipelines one after the other; return what `--output json` prints, and the exit code.

    Args:
        names: The pipelines.
        typed: `--params` and its value, as `kedro run` takes it, or nothing.
        params_file: Parameters, which come before those of the project.
        env: Configuration environment.
        pending: `dry_run` and `force` of `--pending`; None audits this project's own checkpoints.
        verbose: Whether to show the traceback of an error.

    Raises:
        KeyboardInterrupt, click.Abort, Interrupted: If it is told to end. Other errors are
            printed.
    """
    with OUTBOX.held() as alert:
        try:
            command = run_command_here(verbose=verbose)
            _check_names(names)
            if pending is not None:
                # Here, because it reads checkpoints: a verdict from tables needs no torch.
                from sourcetrace.commands.audit_pending import audit_pending

                # Each version's own process tells of it.
                given = _given(command, typed, params_file)
                return audit_pending(given, env=env, pipelines=names, verbose=verbose, **pending)
            environment = [] if env is None else ["--env", env]
            if params_file is None:
                report = _judged(command, names, [*typed, *environment])
            else:
                given = _given(command, typed, params_file)
                report = _judged(command, names, environment, default_map={"params": given})
        except (KeyboardInterrupt, click.Abort, Interrupted):
            raise
        # A task's code may call sys.exit: its code is no verdict.
        except (Exception, SystemExit) as error:
            print_error(error, verbose=verbose)
            alert.note_error(error)
            alert.send()
            return None, ERROR
        alert.send()
    return report, EXIT_CODES[report["outcome"]]


def _check_names(names: Sequence[str]) -> None:
    refuse_unknown_pipelines(names, pipelines)
    if not any(map(_judges, names)):
        raise click.ClickException(
            f"--pipelines {','.join(names)} gives no verdict. Name one that judges: "
            f"{', '.join(filter(_judges, sorted(pipelines)))}; or use `kedro run`, which needs "
            "none."
        )


def _judges(name: str) -> bool:
    return any(node.name.rpartition(".")[2] == _JUDGING_NODE for node in pipelines[name].nodes)


def _given(command: click.Command, typed: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Return the parameters of a file, and those of `--params` over them, as Kedro reads these."""
    of_params = command.make_context("run", [*typed]).params["params"]
    return merge_parameters(read_parameters(file) if file else {}, of_params)


def _judged(
    command: click.Command, names: Sequence[str], arguments: Sequence[str], **extra: Any
) -> Mapping[str, Any]:
    """Run pipelines one after the other and return the last verdict.

    Raises:
        click.ClickException: If there is no verdict.
    """
    report: Mapping[str, Any] | None = None
    # No other run comes in between: the later pipelines go on with what the first has written.
    with PROJECT_LOCK.kept():
        for name in names:
            options = [*arguments, "--pipelines", name]
            try:
                made = command(options, standalone_mode=False, **extra)
            except GateFailed as failure:
                # Here, because a later pipeline may still judge otherwise.
                click.echo(f"\n{failure}", err=True)
                report = failure.report.model_dump(mode="json")
            else:
                verdict = AuditNames.of(pipelines[name]).full("verdict")
                if verdict in made:
                    report = made[verdict].load()
            # The next pipeline gets its own run: kedro-mlflow enters one once more for every node
            # and leaves it once.
            while mlflow.active_run() is not None:
                mlflow.end_run()
    if report is None:
        raise click.ClickException("The run ended without a verdict of the gate.")
    return report
