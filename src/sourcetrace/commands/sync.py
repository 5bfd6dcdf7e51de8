"""`sourcetrace sync`: send what MLflow was not told of while its server was away."""

from pathlib import Path
from typing import Any

import click


@click.command(
    help="Send what MLflow could not be told of while its server was away. Run it in the "
    "project's folder; sending twice does no harm.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--env", help="Configuration environment that names the server.")
def sync(env: str | None) -> None:
    """Load the project in the current folder and send what waits in it."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from mlflow.tracking import MlflowClient

    from sourcetrace.tracking.send_pending import PENDING, send_pending

    project = Path.cwd()
    bootstrap_project(project)
    session: Any = KedroSession.create(project, env=env)
    with session:
        # kedro-mlflow names the server while the context is made.
        dataset: Any = session.load_context().catalog["audit_log"]
        log: Path = dataset.path
        count = send_pending(MlflowClient(), pending=log.parent / PENDING, log=log)
    click.echo(f"{count} sent." if count else "Nothing waits.")
