"""`sourcetrace sync`: send what MLflow was not told of while its server was away."""

import sys
from pathlib import Path
from typing import Any

import click

from sourcetrace.commands.project import configure_project_here
from sourcetrace.formats import format_noun

SENT, WAITS = 0, 2


@click.command(
    help="Send what MLflow could not be told of while its server was away: runs, with all that "
    "they logged, and what audits say of the versions. Run it in the project's folder; sending "
    "twice does no harm.\n\n"
    "\b\nExit codes:\n"
    "  0  nothing waits any more\n"
    "  2  something still waits; the last line says why",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--env", help="Configuration environment that names the server.")
def sync(env: str | None) -> None:
    """Load the project in the current folder and send what waits in it."""
    configure_project_here()
    from sourcetrace.errors import InputError

    try:
        sys.exit(_sync(env))
    except InputError as error:
        click.echo(str(error), err=True)
        sys.exit(WAITS)


def _sync(env: str | None) -> int:
    from kedro.framework.session import KedroSession

    from sourcetrace.tracking.lineage.send import send_all
    from sourcetrace.tracking.server.outage import is_outage, reason_of
    from sourcetrace.tracking.server.tracked import TRACKED
    from sourcetrace.tracking.server.waiting_run import FOLDER, WITHOUT_HISTORY, waiting_runs

    session: Any = KedroSession.create(Path.cwd(), env=env)
    with session:
        # The server is named while the context is made.
        catalog = session.load_context().catalog
        # A project may have several histories, by namespace.
        logs = [catalog[name].path for name in catalog if name.split(".")[-1] == "audit_log"]
        places = {WITHOUT_HISTORY.absolute(), *(log.parent.absolute() for log in logs)}
        roots = [place / FOLDER for place in sorted(places)]
        count = sum(len(waiting_runs(root)) for root in roots)
        if not count:
            click.echo("Nothing waits.")
            return SENT
        if TRACKED.away is not None:
            return _still_away(TRACKED.away, count)
        sent, writing, problems = 0, [], []
        try:
            for root in roots:
                found = send_all(TRACKED.client(), root, progress=click.echo)
                sent += found.runs
                writing += found.writing
                problems += found.problems
        except Exception as error:
            if not is_outage(error):
                raise
            return _still_away(reason_of(error), sum(len(waiting_runs(root)) for root in roots))
    click.echo(f"Sent {format_noun(sent, 'run')}.")
    for name in writing:
        click.echo(f"Run {name} is still being written: send it when it has ended.")
    for problem in problems:
        click.echo(problem, err=True)
    return WAITS if problems else SENT


def _still_away(reason: str, count: int) -> int:
    click.echo(
        f"MLflow's server does not answer ({reason}): {format_noun(count, 'run')} left to send.",
        err=True,
    )
    return WAITS
