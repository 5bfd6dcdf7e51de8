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
    retry_if_result,
    stop_before_delay,
    wait_exponential,
)

from sourcetrace.integrations.webhooks.signature import sign

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 10.0
_TOO_MANY_REQUESTS, _SERVER_ERROR, _REDIRECTION = 429, 500, 300


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
    headers = _headers(body, secret)
    outcome = f"no answer within {total_seconds:g} seconds"

    def post() -> int:
        # Streamed: the answer's status is all that counts.
        with requests.post(
            url,
            data=body,
            headers=headers,
            timeout=timeout_seconds,
            allow_redirects=False,
            stream=True,
        ) as answer:
            return answer.status_code

    retrying = Retrying(
        retry=retry_if_exception_type((requests.ConnectionError, requests.Timeout))
        | retry_if_result(lambda status: status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR),
        wait=wait_exponential(multiplier=first_wait, max=_LONGEST_WAIT),
        stop=stop_before_delay(total_seconds),
        # What the last attempt returned or raised.
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )

    def attempt() -> None:
        nonlocal outcome
        try:
            status = retrying(post)
            outcome = "" if status < _REDIRECTION else f"the receiver answered {status}"
        except Exception as error:
            outcome = type(error).__name__

    # A thread, because a name server or a slow answer can hold a request beyond any time-out.
    thread = threading.Thread(target=attempt, name="alert", daemon=True)
    thread.start()
    thread.join(total_seconds)
    if reason := outcome:
        logger.warning("The alert was not sent: %s. The audit is not affected.", reason)
    else:
        logger.info("The alert was sent.")
    return not reason


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
