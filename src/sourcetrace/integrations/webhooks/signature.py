"""Sign and verify messages as MLflow 3 does: HMAC-SHA256 over `delivery id.timestamp.body`.

The signature is `v1,` and base64, the timestamp in Unix seconds.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

_LONGEST_ID = 200
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Refused(Exception):  # noqa: N818, the sender's error, with the answer it gets
    """A message is not accepted.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


def sign(secret: str, *, delivery_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a message."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def verify(
    headers: Mapping[str, str], body: bytes, *, secret: str, now: float, tolerance_seconds: float
) -> str:
    """Return the delivery id of a message that is signed with the secret, and recently.

    It is the sender's own number of the message, the same when it is sent again.

    Raises:
        Refused: 400 if a header is missing or the message is too old or from the future, 401 if
            the signature is wrong. Who has no secret learns nothing but 400 and 401.
    """
    delivery_id, timestamp, signature = (
        headers.get(f"X-MLflow-{name}", "") for name in ("Delivery-Id", "Timestamp", "Signature")
    )
    if not 0 < len(delivery_id) <= _LONGEST_ID or not _TIMESTAMP.fullmatch(timestamp):
        raise Refused(400, "delivery id or timestamp is missing or malformed")
    expected = sign(secret, delivery_id=delivery_id, timestamp=timestamp, body=body)
    # Bytes: compare_digest refuses text that is not ASCII, which a header may hold.
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise Refused(401, "the signature is wrong or missing")
    if abs(now - int(timestamp)) > tolerance_seconds:
        raise Refused(400, "the timestamp is too far from this machine's time")
    return delivery_id
