"""Send what MLflow was not told of: `python -m sourcetrace.tracking.send_pending`, in the project.

Audits are sent in the order in which they ended; the first that cannot be sent stops it, and it
and all later ones stay in the file.
"""

import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow.tracking import MlflowClient

from sourcetrace.tracking.pending import read_pending, remove_pending
from sourcetrace.tracking.publish import send_again

PENDING = "pending_lineage.json"
"""Beside the history of audits."""


def send_pending(client: MlflowClient, *, pending: Path, log: Path) -> int:
    """Send every audit that waits, and return how many there were."""
    records = read_pending(pending)
    for record in records:
        send_again(client, record, log=log)
        remove_pending(pending, record)
    return len(records)


@click.command(help="Send the lineage of audits that MLflow could not be told of.")
@click.option("--env", default=None, help="Kedro environment that names the server.")
def main(env: str | None) -> None:
    """Load the project in the current folder and send what waits in it."""
    project = Path.cwd()
    bootstrap_project(project)
    session: Any = KedroSession.create(project, env=env)
    with session:
        # kedro-mlflow names the server while the context is made.
        dataset: Any = session.load_context().catalog["audit_log"]
        log: Path = dataset.path
        count = send_pending(MlflowClient(), pending=log.parent / PENDING, log=log)
    click.echo(f"{count} sent." if count else "Nothing waits.")


if __name__ == "__main__":
    sys.exit(main())
