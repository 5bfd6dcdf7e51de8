"""Send an alert: a few attempts in a bounded time, whose failure is a line in the log.

The address may hold a token: neither it nor an error that quotes it is ever logged.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import requests
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_exponential,
)

from sourcetrace.integrations.webhooks.signature import sign

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 10.0
_TOO_MANY_REQUESTS, _SERVER_ERROR, _REDIRECTION = 429, 500, 300


class _NotSent(Exception):  # noqa: N818
    """The receiver will not have it."""


class _NotYetSent(_NotSent):
    """Another attempt may help."""


def send_alert(
    payload: Mapping[str, Any],
    *,
    url: str,
    secret: str | None,
    timeout_seconds: float,
    total_seconds: float,
    first_wait: float = 1.0,
) -> bool:
    """Post a payload as JSON, again while the receiver is away or overloaded.

    Args:
        payload: JSON values.
        url: http or https; redirections are not followed.
        secret: Signs the message as MLflow signs its own, in headers X-Sourcetrace-…; None: no
            signature.
        timeout_seconds: Of one attempt.
        total_seconds: After which this returns, whatever the network does.
        first_wait: Seconds before the second attempt; doubled each time.

    Returns:
        Whether it was taken. Nothing is raised.
    """
    body = json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
    request = _Request(url, body, _headers(body, secret), timeout_seconds)
    result: list[str] = []
    retrying = Retrying(
        retry=retry_if_exception_type(_NotYetSent),
        wait=wait_exponential(multiplier=first_wait, max=_LONGEST_WAIT),
        stop=stop_before_delay(total_seconds),
        reraise=True,
    )

    def attempt() -> None:
        try:
            retrying(request.post)
        except _NotSent as error:
            result.append(str(error))
        except Exception as error:
            result.append(type(error).__name__)
        else:
            result.append("")

    # A thread, because a name server or a slow answer can hold a request beyond any time-out.
    thread = threading.Thread(target=attempt, name="alert", daemon=True)
    thread.start()
    thread.join(total_seconds)
    outcome = result[0] if result else f"no answer within {total_seconds:g} seconds"
    if outcome:
        logger.warning("The alert was not sent: %s. The audit is not affected.", outcome)
        return False
    logger.info("The alert was sent.")
    return True


class _Request:
    """One message, the same in every attempt."""

    def __init__(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float
    ) -> None:
        self._url, self._body, self._headers = url, body, headers
        self._timeout = timeout_seconds

    def post(self) -> None:
        """Post it once."""
        try:
            # Streamed: the answer's status is all that counts.
            with requests.post(
                self._url,
                data=self._body,
                headers=self._headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _NotYetSent(type(error).__name__) from None
        except (requests.RequestException, ValueError) as error:
            raise _NotSent(type(error).__name__) from None
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise _NotYetSent(f"the receiver answered {status}")
        if status >= _REDIRECTION:
            raise _NotSent(f"the receiver answered {status}")


def _headers(body: bytes, secret: str | None) -> dict[str, str]:
    delivery_id, timestamp = str(uuid.uuid4()), str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "X-Sourcetrace-Delivery-Id": delivery_id,
        "X-Sourcetrace-Timestamp": timestamp,
    }
    if secret:
        headers["X-Sourcetrace-Signature"] = sign(
            secret, delivery_id=delivery_id, timestamp=timestamp, body=body
        )
    return headers
