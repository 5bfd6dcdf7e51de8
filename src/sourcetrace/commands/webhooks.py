"""`sourcetrace webhooks`: receive MLflow's registry webhooks and audit what they announce."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from sourcetrace.errors import InputError

_HELP = """Receive MLflow's registry webhooks and audit the versions that they announce.

Run it in the project's folder. A new version of a model that --model names is audited, a version
that gets a new alias, and one that somebody gives the tag audit.request. Audits run one at a time;
what waits outlives a restart.

The secret that MLflow signs with is in the environment variable SOURCETRACE_WEBHOOK_SECRET.
"""

LOCK = "data/audit.lock"
"""Locked while an audit runs, here and in the cron example: one at a time in a project."""

_SHORTEST_SECRET = 16


@click.command(
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="How to set up MLflow, a reverse proxy and this: docs/scheduling.md.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME[=ENV]",
    help="A registered model that may be audited, and its configuration environment, a folder in "
    "conf/. Several times for several models.",
)
@click.option(
    "--params",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the audits; {version} stands for the version's number: "
    "checkpoints.path=models/{version}. Several times.",
)
@click.option("--pipelines", help="What an audit runs; see sourcetrace audit.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--tolerance",
    default=300,
    show_default=True,
    type=click.IntRange(1, 3600),
    metavar="SECONDS",
    help="How far a message's time may be from this machine's.",
)
@click.option(
    "--queue",
    "queue_path",
    default="data/webhooks.sqlite",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of what waits and of the messages seen.",
)
def webhooks(
    models: tuple[str, ...],
    params: tuple[str, ...],
    pipelines: str | None,
    host: str,
    port: int,
    tolerance: int,
    queue_path: Path,
) -> None:
    """Listen until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        environments = _environments(models)
        secret = _secret()
    except InputError as error:
        raise click.ClickException(str(error)) from error
    if not _is_loopback(host):
        logging.warning(
            "Listening on %s: others can reach this port. Let a reverse proxy with TLS listen "
            "there instead, and this on 127.0.0.1.",
            host,
        )
    with _only_one(queue_path):
        _receive(
            secret,
            environments,
            command_options={"params": params, "pipelines": pipelines},
            address=(host, port),
            tolerance=tolerance,
            queue_path=queue_path,
        )


def _receive(
    secret: str,
    environments: dict[str, str | None],
    *,
    command_options: dict[str, Any],
    address: tuple[str, int],
    tolerance: int,
    queue_path: Path,
) -> None:
    """Serve, and audit beside it, until the process is told to end."""
    import uvicorn

    from sourcetrace.integrations.webhooks.queue import AuditQueue
    from sourcetrace.integrations.webhooks.server import ReceiverSettings, make_application
    from sourcetrace.integrations.webhooks.worker import AuditWorker, audit_command

    queue = AuditQueue(queue_path, remember_seconds=2 * tolerance)
    for audit in queue.recover():
        logging.error(
            "Audit of %s version %s is given up: this process was killed during every attempt.",
            audit.model,
            audit.version,
        )
    settings = ReceiverSettings(secret=secret, models=environments, tolerance_seconds=tolerance)
    worker = AuditWorker(
        queue,
        partial(audit_command, models=environments, **command_options),
        lock=Path(LOCK),
    )
    # uvicorn raises the signal again when it has shut down: the worker is still to be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker.start()
    try:
        uvicorn.run(
            make_application(settings, queue),
            host=address[0],
            port=address[1],
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=32,
            timeout_graceful_shutdown=5,
            lifespan="off",
            ws="none",
        )
    finally:
        worker.stop()
        worker.join()


def _environments(models: Sequence[str]) -> dict[str, str | None]:
    """Return model -> environment of `NAME[=ENV]`."""
    from sourcetrace.integrations.webhooks.worker import check_model_name

    if not Path("conf").is_dir():
        raise InputError(
            f"{Path.cwd()} holds no folder conf. Run this command in the project's folder."
        )
    found: dict[str, str | None] = {}
    for given in models:
        name, _, environment = given.partition("=")
        check_model_name(name)
        if environment and not Path("conf", environment).is_dir():
            raise InputError(
                f"--model {given}: there is no folder conf/{environment}. Name an environment of "
                "this project."
            )
        found[name] = environment or None
    return found


def _secret() -> str:
    from sourcetrace.integrations.webhooks.worker import SECRET_VARIABLE

    secret = os.environ.get(SECRET_VARIABLE, "")
    if len(secret) < _SHORTEST_SECRET:
        raise InputError(
            f"The environment variable {SECRET_VARIABLE} must hold the secret that MLflow signs "
            f"with, at least {_SHORTEST_SECRET} characters; it has {len(secret)}. Make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _only_one(queue_path: Path) -> Iterator[None]:
    """Refuse a second receiver on the same queue: it would take a running audit for a dead one."""
    from filelock import FileLock, Timeout

    queue_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{queue_path}.lock", timeout=0):
            yield
    except Timeout as error:
        raise click.ClickException(
            f"Another receiver works on {queue_path}. Stop it first, or give this one --queue."
        ) from error
