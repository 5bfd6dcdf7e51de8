"""Run the project as `python -m sourcetrace` or `sourcetrace`.

`sourcetrace audit …` is an audit with exit codes, and so on as `commands` names them; anything
else is `kedro run …`.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from sourcetrace import __version__
from sourcetrace.commands import COMMANDS
from sourcetrace.formats import format_known


def main(*args: Any, **kwargs: Any) -> Any:
    """Run a command of this package, or `kedro run` of this project."""
    # As settings.py does for `kedro run`, and before a command imports MLflow, which asks once.
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(args[0]) if args else sys.argv[1:]
    # `worker` is for an audit that starts processes, and no person's to run.
    if given and given[0] in {*COMMANDS, "worker"}:
        command = getattr(import_module(f"sourcetrace.commands.{given[0]}"), given[0])
        return command(given[1:], prog_name=f"sourcetrace {given[0]}")
    if given in (["--help"], ["-h"]):
        click.echo(_help())
        return None
    if given == ["--version"]:
        click.echo(f"sourcetrace {__version__}")
        return None
    if given and not given[0].startswith("-"):
        unknown = f"There is no command {given[0]}. {format_known(given[0], COMMANDS)}."
        click.echo(f"Error: {unknown} Try: sourcetrace --help", err=True)
        sys.exit(2)
    # Here: the help needs neither Kedro nor what its project imports, which take seconds.
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package_name = Path(__file__).parent.name
    configure_project(package_name)
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command(package_name)(*args, **kwargs)


def _help() -> str:
    return "\n".join(
        [
            "Usage: sourcetrace COMMAND …, or sourcetrace with the options of `kedro run`",
            "",
            "Commands; each says more with --help:",
            *(f"  {name:<9} {does}" for name, does in COMMANDS.items()),
            "",
            "Without a command it runs this project's pipelines as `kedro run` does, whose --help",
            "lists the options, --pipelines and --params among them; `kedro registry list` names",
            "the pipelines.",
            "",
            "  --version  Say which version this is.",
            "  --help     Say this.",
        ]
    )


if __name__ == "__main__":
    main()
