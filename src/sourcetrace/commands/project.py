"""The Kedro project in the current folder: this one, or one that has adopted the audit."""

import traceback
from pathlib import Path

import click
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
