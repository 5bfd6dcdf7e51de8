"""The Kedro project in the current folder: this one, or one that has adopted the audit."""

import logging
import traceback
from pathlib import Path
from typing import cast

import click
from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project
from kedro.utils import is_kedro_project
from kedro.validation import ParameterValidationError

from sourcetrace.formats import with_environment
from sourcetrace.hooks.terminal import Terminal, readable_error

_PACKAGE = "sourcetrace"


def configure_project_here() -> str:
    """Configure Kedro for the project in this folder, and return the name of its package.

    Raises:
        click.ClickException: If there is none.
    """
    here = Path.cwd()
    if not Path("conf").is_dir():
        raise click.ClickException(
            f"{here} holds no folder conf. Run this command in the project's folder."
        )
    if is_kedro_project(here):
        package: str = bootstrap_project(here).package_name
        return package
    # Installed, without the source: a folder with conf/ is enough.
    configure_project(_PACKAGE)
    return _PACKAGE


def run_command_here(*, verbose: bool) -> click.Command:
    """Configure Kedro for the project in this folder, and return its `kedro run`.

    Args:
        verbose: Whether Kedro logs errors, too: the command itself says what went wrong, once and
            at the end.

    Raises:
        click.ClickException: If there is no project.
    """
    package = configure_project_here()
    if not verbose:
        logging.getLogger("kedro").setLevel(logging.CRITICAL)
    return cast(click.Command, find_run_command(package))


def print_error(error: BaseException, *, verbose: bool, env: str | None = None) -> None:
    """Print what ended a command in an environment, behind the traceback if that is asked for."""
    if verbose:
        traceback.print_exception(error)
    hint = "" if verbose else " (--verbose shows the traceback)"
    Terminal.print_error(with_environment(_message(error, hint=hint), env or ""))


def _message(error: BaseException, *, hint: str) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, SystemExit):
        return f"the run was ended by sys.exit({error.code!r}): there is no verdict{hint}."
    readable = readable_error(error)
    if readable is not None or isinstance(error, ParameterValidationError):
        return str(readable or error)
    return f"{type(error).__name__}: {error}{hint}"
