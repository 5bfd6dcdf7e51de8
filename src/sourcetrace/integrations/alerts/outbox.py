"""Decides whether an audit that ended is told of, and sees to it that one audit is told once."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sourcetrace.integrations.alerts.delivery import send_alert
from sourcetrace.integrations.alerts.message import EndedAudit, alert_payload
from sourcetrace.parameters import AlertParameters

logger = logging.getLogger(__name__)


class Outbox:
    """Keeps what one command's pipelines ended as, of which the last counts.

    Attributes:
        parameters: Of the pipelines; the defaults until one has read its own.
        last: How the last one ended.
    """

    def __init__(self) -> None:
        self.parameters = AlertParameters()
        self.last: EndedAudit | None = None

    def note_error(self, error: BaseException) -> None:
        """Keep that the command ended with an error, which no pipeline may have seen."""
        if self.last is None or self.last.outcome != "error":
            self.last = EndedAudit("error", Path.cwd().name, error=type(error).__name__)

    def send(self) -> None:
        """Tell how it ended."""
        if self.last is not None:
            _send(self.last, self.parameters)


_open: list[Outbox] = []


@contextmanager
def one_alert() -> Iterator[Outbox]:
    """Hold alerts back while a command runs several pipelines."""
    outbox = Outbox()
    _open.append(outbox)
    try:
        yield outbox
    finally:
        _open.pop()


def use_parameters(parameters: AlertParameters) -> None:
    """Let a command that holds alerts back send them with the project's parameters."""
    if _open:
        _open[-1].parameters = parameters


def tell(audit: EndedAudit, parameters: AlertParameters) -> None:
    """Send an alert of an audit that ended, or leave it to the command that holds alerts back."""
    if _open:
        _open[-1].last = audit
    else:
        _send(audit, parameters)


def warn_of_address(parameters: AlertParameters) -> None:
    """Say at the start where the address cannot be one."""
    if _url(parameters) is None and os.environ.get(parameters.url_variable):
        logger.warning(
            "%s holds no http or https address: no alert will be sent.", parameters.url_variable
        )


def _send(audit: EndedAudit, parameters: AlertParameters) -> None:
    url = _url(parameters)
    if url is None or audit.outcome not in parameters.outcomes:
        return
    send_alert(
        alert_payload(audit),
        url=url,
        secret=os.environ.get(parameters.secret_variable) or None,
        timeout_seconds=parameters.timeout_seconds,
        total_seconds=parameters.total_seconds,
    )


def _url(parameters: AlertParameters) -> str | None:
    given = os.environ.get(parameters.url_variable, "").strip()
    try:
        parts = urlsplit(given)
    except ValueError:
        return None
    return given if parts.scheme in {"http", "https"} and parts.hostname else None
