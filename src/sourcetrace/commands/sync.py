"""`sourcetrace sync`: send what MLflow was not told of while its server was away."""

import sys

import click

from sourcetrace.commands.options import CONTEXT, env


@click.command(
    help="Send what MLflow could not be told of while its server was away: runs, with all that "
    "they logged, and what audits say of the versions. Run it in the project's folder; sending "
    "twice does no harm.\n\n"
    "\b\nExit codes:\n"
    "  0  nothing waits any more\n"
    "  2  something still waits; the last line says why",
    context_settings=CONTEXT,
)
@env
def sync(env: str | None) -> None:
    """Load the project in the current folder and send what waits in it."""
    # Here: the help needs neither Kedro nor MLflow, which take two seconds.
    from sourcetrace.commands.sync_run import send_waiting

    sys.exit(send_waiting(env))
