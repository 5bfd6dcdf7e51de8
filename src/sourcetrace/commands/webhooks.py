"""`sourcetrace webhooks`: receive MLflow's registry webhooks and audit what they announce."""

import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click
import yaml
from filelock import FileLock, Timeout

from sourcetrace.commands.options import CONTEXT
from sourcetrace.errors import InputError
from sourcetrace.integrations import extra
from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.worker import SECRET_VARIABLE, AuditWorker

_HELP = """Receive MLflow's registry webhooks and audit the versions that they announce.

Run it in the project's folder. A new version of a model that --model names is audited, a version
that gets a new alias, and one that somebody gives the tag audit.request. Audits run one at a time;
what waits outlives a restart.

The secret that MLflow signs with is in the environment variable SOURCETRACE_WEBHOOK_SECRET.
"""

_FIT_NAME = re.compile(r"[^\W\d][\w.-]*")
_SHORTEST_SECRET = 16


class _Refused(click.ClickException):
    """What is given does not do."""

    exit_code = 2


@click.command(
    help=_HELP,
    context_settings=CONTEXT,
    epilog="How to set up MLflow, a reverse proxy and this: docs/reference/scheduling.md.",
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
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
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
        with extra("webhooks", because="The receiver serves HTTP"):
            import uvicorn

            from sourcetrace.integrations.webhooks.server import SERVER_OPTIONS, make_application
    except InputError as error:
        raise _Refused(str(error)) from error
    environments, secret = _environments(models), _secret()
    if host not in {"127.0.0.1", "::1", "localhost"}:
        logging.warning(
            "Listening on %s: others can reach this port. Let a reverse proxy with TLS listen "
            "there instead, and this on 127.0.0.1.",
            host,
        )
    # A second receiver would take a running audit for a dead one.
    queue_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{queue_path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _Refused(
            f"Another receiver works on {queue_path}. Stop it first, or give this one --queue."
        ) from None
    queue = AuditQueue(queue_path, remember_seconds=2 * tolerance)
    if given_up := queue.put_back(uncounted=False):
        logging.error(
            "Audit of %s version %s is given up: this process was killed during every attempt.",
            *given_up,
        )
    application = make_application(
        queue, secret=secret, models=environments, tolerance_seconds=tolerance
    )
    worker = AuditWorker(
        queue,
        partial(_audit_command, environments=environments, params=params, pipelines=pipelines),
    )
    # uvicorn raises the signal again when it has shut down: the worker is still to be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker.start()
    try:
        uvicorn.run(application, host=host, port=port, **SERVER_OPTIONS)
    finally:
        worker.stop()


def _audit_command(
    audit: RequestedAudit,
    *,
    environments: Mapping[str, str | None],
    params: Sequence[str] = (),
    pipelines: str | None = None,
) -> list[str]:
    """Return the command that audits a version in the current folder's project.

    Args:
        audit: Which version; its model is one of `environments`.
        environments: Registered model -> configuration environment.
        params: Further parameters, `{version}` standing for the version's number.
        pipelines: What to run, where it is not only the audit.
    """
    given = [
        f"tracking.registered_model.name={audit.model}",
        f"tracking.registered_model.version={audit.version}",
        *(param.replace("{version}", audit.version) for param in params),
    ]
    command = [sys.executable, "-m", "sourcetrace", "audit", "--params", ",".join(given)]
    if environment := environments[audit.model]:
        command += ["--env", environment]
    if pipelines is not None:
        command += ["--pipelines", pipelines]
    return command


def _environments(models: Sequence[str]) -> dict[str, str | None]:
    """Return model -> environment of `NAME[=ENV]`."""
    if not Path("conf").is_dir():
        raise _Refused(
            f"{Path.cwd()} holds no folder conf. Run this command in the project's folder."
        )
    found: dict[str, str | None] = {}
    for given in models:
        name, _, environment = given.partition("=")
        # A name is handed on as a parameter, which Kedro reads as YAML.
        if not _FIT_NAME.fullmatch(name) or yaml.safe_load(name) != name:
            raise _Refused(
                f"--model {name!r}: expected a registered model's name that begins with a letter, "
                "has only letters, digits and _ . - in it and is no word of YAML like true or "
                "null: the --params of an audit would take any other apart. Audit this model from "
                "a scheduler, with its name in the parameters."
            )
        if environment and not Path("conf", environment).is_dir():
            raise _Refused(
                f"--model {given}: there is no folder conf/{environment}. Name an environment of "
                "this project."
            )
        found[name] = environment or None
    return found


def _secret() -> str:
    secret = os.environ.get(SECRET_VARIABLE, "")
    if len(secret) < _SHORTEST_SECRET:
        raise _Refused(
            f"The environment variable {SECRET_VARIABLE} must hold the secret that MLflow signs "
            f"with, at least {_SHORTEST_SECRET} characters; it has {len(secret)}. Make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret
