"""`sourcetrace audit`: an audit for schedulers, whose exit code says how it came out.

Kedro is imported in functions only: where it finds no logging configuration, it prints so on
standard output, which `--output json` keeps for the verdict.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, cast

import click

from sourcetrace.commands.exit_codes import (
    ERROR,
    EXIT_CODES,
    INTERRUPTED,
)
from sourcetrace.commands.project import configure_project_here
from sourcetrace.integrations.alerts.outbox import OUTBOX

_JUDGING_NODE = "enforce_gate"


_HELP = """Audit the model of the project in this folder and judge the result.

\b
Exit codes:
  0  the gate passed, perhaps with warnings
  1  the gate failed
  2  an error: there is no verdict
  3  inconclusive: the scores are not trusted enough for a verdict

Run it in the project's folder, the one that holds conf/.
"""


@click.command(
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Everything is written before the exit code is decided. Thresholds: "
    "conf/base/parameters_gate.yml. What to do about each outcome: docs/audits.md.",
)
@click.option(
    "--params",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter for this run: attribution.method=influence. Several times, or "
    "separated by commas.",
)
@click.option(
    "--params-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The same from a YAML file, nested as in conf/, for values with commas; --params come "
    "before it.",
)
@click.option("--env", help="Configuration environment: a folder in conf/.")
@click.option(
    "--pipelines",
    default="audit",
    show_default=True,
    help="Which to run, separated by commas, one after the other; the last verdict counts. "
    "`audit,verification` trains the model again before it is final.",
)
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: print gate.json, and nothing else, on standard output; with --pending a list of "
    "the versions.",
)
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--pending",
    is_flag=True,
    help="Audit every version of the models in tracking.pending that needs it, one after the "
    "other; the worst outcome counts.",
)
@click.option("--dry-run", is_flag=True, help="With --pending: say what would be audited and end.")
@click.option("--force", is_flag=True, help="With --pending: audit versions that need none, too.")
def audit(
    params: tuple[str, ...],
    params_file: Path | None,
    env: str | None,
    pipelines: str,
    output: str,
    verbose: bool,
    pending: bool,
    dry_run: bool,
    force: bool,
) -> None:
    """Run pipelines, judge, and exit with the code of the verdict."""
    if (dry_run or force) and not pending:
        raise click.UsageError("--dry-run and --force are options of --pending.")
    typed = ["--params", ",".join(params)] if params else []
    environment = [] if env is None else ["--env", env]
    names = [name.strip() for name in pipelines.split(",") if name.strip()]
    quiet_stdout = _stdout_as_stderr() if output == "json" else nullcontext()
    result: Any
    with OUTBOX.held() as alert:
        try:
            with quiet_stdout:
                command = _run_command(names, verbose=verbose)
                given = _given(command, typed, params_file) if pending or params_file else None
                if pending:
                    from sourcetrace.commands.audit_pending import audit_pending

                    # Each version's own process tells of it.
                    result, code = audit_pending(
                        given or {},
                        env=env,
                        pipelines=names,
                        dry_run=dry_run,
                        force=force,
                        verbose=verbose,
                    )
                else:
                    arguments = [*(typed if given is None else []), *environment]
                    result = _judged(command, names, arguments, given=given)
                    code = EXIT_CODES[result["outcome"]]
        # A task's code may call sys.exit: its code is no verdict.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            code = _explain(error, verbose=verbose)
            if code == ERROR:
                alert.note_error(error)
                alert.send()
            sys.exit(code)
        alert.send()
    if output == "json":
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    sys.exit(code)


def _run_command(names: Sequence[str], *, verbose: bool) -> click.Command:
    """Return `kedro run` of the project in this folder.

    Raises:
        click.ClickException: If there is none, or it cannot give a verdict.
    """
    package = configure_project_here()
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import pipelines

    _check_names(names, pipelines)
    if not verbose:
        _silence_kedro()
    return cast(click.Command, find_run_command(package))


def _given(command: click.Command, arguments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Return the parameters of a file, and those of `--params` over them, as Kedro reads these."""
    from sourcetrace.configuration import merge_parameters, read_parameters

    given = command.make_context("run", [*arguments]).params["params"]
    return merge_parameters(read_parameters(file) if file else {}, given)


def _judged(
    command: click.Command,
    names: Sequence[str],
    arguments: Sequence[str],
    *,
    given: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Run pipelines one after the other and return the last verdict.

    Args:
        command: `kedro run`.
        names: The pipelines.
        arguments: Of the command.
        given: Parameters, where they are not among the arguments.

    Raises:
        click.ClickException: If there is no verdict.
    """
    from kedro.framework.project import pipelines

    from sourcetrace.audit.gate.failure import GateFailed
    from sourcetrace.locks import PROJECT_LOCK
    from sourcetrace.namespace import AuditNames

    defaults = {} if given is None else {"default_map": {"params": given}}
    report: dict[str, Any] | None = None
    # No other run comes in between: the later pipelines go on with what the first has written.
    with PROJECT_LOCK.kept():
        for name in names:
            options = [*arguments, "--pipelines", name]
            try:
                made = command(options, standalone_mode=False, **defaults)
            except GateFailed as failure:
                # Here, because a later pipeline may still judge otherwise.
                click.echo(f"\n{failure}", err=True)
                report = failure.report.model_dump(mode="json")
            else:
                verdict = AuditNames.of(pipelines[name]).full("verdict")
                if verdict in made:
                    report = made[verdict].load()
            _end_mlflow_run()
    if report is None:
        raise click.ClickException("The run ended without a verdict of the gate.")
    return report


def _check_names(names: Sequence[str], registered: Mapping[str, Any]) -> None:
    unknown = [name for name in names if name not in registered]
    if unknown:
        raise click.ClickException(
            f"There is no pipeline {', '.join(unknown)}. There are {', '.join(sorted(registered))}."
        )
    judging = [
        name
        for name in sorted(registered)
        if any(node.name.rpartition(".")[2] == _JUDGING_NODE for node in registered[name].nodes)
    ]
    if not set(names) & set(judging):
        raise click.ClickException(
            f"--pipelines {','.join(names)} gives no verdict. Name one that judges: "
            f"{', '.join(judging)}; or use `kedro run`, which needs none."
        )


def _explain(error: BaseException, *, verbose: bool) -> int:
    """Say what went wrong, on standard error, and return the exit code."""
    from sourcetrace.reporting.console import print_error

    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    if verbose:
        traceback.print_exception(error)
    print_error(_message(error, hint="" if verbose else " (--verbose shows the traceback)"))
    return ERROR


def _message(error: BaseException, *, hint: str) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, SystemExit):
        return f"the run was ended by sys.exit({error.code!r}): there is no verdict{hint}."
    from kedro.validation import ParameterValidationError

    from sourcetrace.hooks.terminal import readable_error

    readable = readable_error(error)
    if readable is not None:
        return str(readable)
    if isinstance(error, ParameterValidationError):
        return str(error)
    return f"{type(error).__name__}: {error}{hint}"


def _end_mlflow_run() -> None:
    """Close the run in MLflow, so that the next pipeline gets its own.

    kedro-mlflow enters the run once more for every node and leaves it once.
    """
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run()


def _silence_kedro() -> None:
    """Keep Kedro from saying what this command says itself, once and at the end."""
    logging.getLogger("kedro").setLevel(logging.CRITICAL)


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Send what this process and its children print to standard error instead.

    Children and libraries write to the descriptor, this interpreter to an object over it.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
