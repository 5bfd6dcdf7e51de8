"""The runs that wait in the project in this folder, sent to MLflow's server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from kedro.framework.session import KedroSession

from sourcetrace.commands.project import configure_project_here
from sourcetrace.errors import InputError
from sourcetrace.formats import format_noun
from sourcetrace.tracking.lineage.send import Sender
from sourcetrace.tracking.server.outage import is_outage, reason_of
from sourcetrace.tracking.server.tracked import TRACKED
from sourcetrace.tracking.server.waiting_run import FOLDER, WITHOUT_HISTORY, WaitingRun

_SENT, _WAITS = 0, 2


def send_waiting(env: str | None) -> int:
    """Send what waits, say what became of it, and return the exit code.

    Args:
        env: Configuration environment.
    """
    configure_project_here()
    try:
        return _send(env)
    except InputError as error:
        click.echo(str(error), err=True)
        return _WAITS


def _send(env: str | None) -> int:
    session: Any = KedroSession.create(Path.cwd(), env=env)
    with session:
        # The server is named while the context is made.
        catalog = session.load_context().catalog
        # A project may have several histories, by namespace.
        logs = [catalog[name].path for name in catalog if name.split(".")[-1] == "audit_log"]
        places = {WITHOUT_HISTORY.absolute(), *(log.parent.absolute() for log in logs)}
        roots = [place / FOLDER for place in sorted(places)]
        if not (count := _waiting(roots)):
            click.echo("Nothing waits.")
            return _SENT
        if TRACKED.away is not None:
            return _still_away(TRACKED.away, count)
        try:
            sent = Sender(TRACKED.client(), progress=click.echo).send_all(*roots)
        except Exception as error:
            if not is_outage(error):
                raise
            return _still_away(reason_of(error), _waiting(roots))
    click.echo(f"Sent {format_noun(sent.runs, 'run')}.")
    for name in sent.writing:
        click.echo(f"Run {name} is still being written: send it when it has ended.")
    for problem in sent.problems:
        click.echo(problem, err=True)
    return _WAITS if sent.problems else _SENT


def _waiting(roots: Sequence[Path]) -> int:
    return sum(len(WaitingRun.folders(root)) for root in roots)


def _still_away(reason: str, count: int) -> int:
    click.echo(
        f"MLflow's server does not answer ({reason}): {format_noun(count, 'run')} left to send.",
        err=True,
    )
    return _WAITS
