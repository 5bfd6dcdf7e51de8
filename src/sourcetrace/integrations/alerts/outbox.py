"""Decides whether an audit that ended is told of, and sees to it that one audit is told once."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Self
from urllib.parse import urlsplit

from sourcetrace.errors import InputError
from sourcetrace.integrations import extra
from sourcetrace.integrations.alerts.message import EndedAudit
from sourcetrace.parameters import AlertParameters

logger = logging.getLogger(__name__)


class _Outbox:
    """Tells of each audit that ended, or of the last of one command's pipelines.

    Attributes:
        parameters: Of the project; the defaults until a run has read them.
    """

    def __init__(self) -> None:
        self.parameters = AlertParameters()
        self._held = False
        self._last: EndedAudit | None = None

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Hold alerts back while a command runs several pipelines; it sends the last itself."""
        self.parameters, self._held, self._last = AlertParameters(), True, None
        try:
            yield self
        finally:
            self._held = False

    def check(self) -> None:
        """Say before the work where an alert could not be sent.

        Raises:
            InputError: If there is an address and the extra is not installed.
        """
        if self._url() is not None:
            self._import_delivery()
        elif os.environ.get(self.parameters.url_variable):
            logger.warning(
                "%s holds no http or https address: no alert will be sent.",
                self.parameters.url_variable,
            )

    def tell(self, audit: EndedAudit) -> None:
        """Send an alert of an audit that ended, or leave it to the command that holds it back."""
        self._last = audit
        if not self._held:
            self.send()

    def note_error(self, error: BaseException) -> None:
        """Keep that the command ended with an error, which no pipeline may have seen."""
        if self._last is None or self._last.outcome != "error":
            self._last = EndedAudit("error", Path.cwd().name, error=type(error).__name__)

    def send(self) -> None:
        """Tell how the last one ended, where the parameters ask for it."""
        url = self._url()
        if self._last is None or url is None or self._last.outcome not in self.parameters.outcomes:
            return
        try:
            delivery = self._import_delivery()
        except InputError:
            logger.warning("The alert was not sent: its packages are not installed.")
            return
        delivery.send_alert(
            self._last.payload(),
            url=url,
            secret=os.environ.get(self.parameters.secret_variable) or None,
            timeout_seconds=self.parameters.timeout_seconds,
            total_seconds=self.parameters.total_seconds,
        )

    def _import_delivery(self) -> ModuleType:
        variable = self.parameters.url_variable
        with extra("alerts", because=f"{variable} is set", otherwise=f", or unset {variable}"):
            from sourcetrace.integrations.alerts import delivery  # noqa: PLC0415, optional
        return delivery

    def _url(self) -> str | None:
        given = os.environ.get(self.parameters.url_variable, "").strip()
        try:
            parts = urlsplit(given)
        except ValueError:
            return None
        return given if parts.scheme in {"http", "https"} and parts.hostname else None


OUTBOX = _Outbox()
"""Of this process."""
