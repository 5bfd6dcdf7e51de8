"""The HTTP side: bounded reading, verifying, queueing; every answer comes at once."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sourcetrace.integrations.webhooks.events import RequestedAudit, requested_audit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.signature import Envelope, Refused, verify

logger = logging.getLogger(__name__)

PATH = "/mlflow"
LONGEST_BODY = 256 * 1024
"""Bytes. MLflow's largest event holds a version's description and its tags."""

_READING_SECONDS = 10.0


@dataclass(frozen=True)
class ReceiverSettings:
    """What messages are held against.

    Attributes:
        secret: Shared with MLflow; not in the repr.
        models: Registered models that may be audited -> configuration environment.
        tolerance_seconds: How old a message may be, and how far in the future.
    """

    secret: str
    models: Mapping[str, str | None]
    tolerance_seconds: float = 300.0

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"ReceiverSettings(models={dict(self.models)})"


def make_application(settings: ReceiverSettings, queue: AuditQueue) -> Starlette:
    """Return the application: POST /mlflow and GET /health."""

    async def receive(request: Request) -> Response:
        try:
            body = await _read(request)
            asked = await run_in_threadpool(
                admit, _envelope(request.headers), body, settings=settings, queue=queue
            )
        except Refused as refused:
            logger.warning("Refused a message (%s): %s.", refused.status, refused)
            return JSONResponse({"error": str(refused)}, status_code=refused.status)
        except ClientDisconnect:
            # There is nobody to answer.
            return Response(status_code=400)
        return JSONResponse({"status": "queued" if asked else "ignored"}, status_code=202)

    def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", **queue.counts()})

    return Starlette(
        routes=[Route(PATH, receive, methods=["POST"]), Route("/health", health, methods=["GET"])]
    )


def admit(
    envelope: Envelope, body: bytes, *, settings: ReceiverSettings, queue: AuditQueue
) -> RequestedAudit | None:
    """Verify a message and queue the audit that it asks for, if it does.

    Raises:
        Refused: If it is not accepted.
    """
    verify(
        envelope,
        body,
        secret=settings.secret,
        now=queue.now(),
        tolerance_seconds=settings.tolerance_seconds,
    )
    asked, refused = None, None
    try:
        asked = requested_audit(body, models=settings.models)
    except Refused as raised:
        refused = raised
    # What is signed is remembered even if it is refused.
    queue.accept(envelope.delivery_id, asked)
    if refused is not None:
        raise refused
    if asked is not None:
        logger.info("An audit of %s version %s waits.", asked.model, asked.version)
    return asked


async def _read(request: Request) -> bytes:
    """Return the body, of which no more is read than is allowed."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > LONGEST_BODY:
        raise Refused(413, f"the body is longer than {LONGEST_BODY} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(_READING_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_BODY:
                    raise Refused(413, f"the body is longer than {LONGEST_BODY} bytes")
    except TimeoutError:
        raise Refused(400, "the body did not come to its end") from None
    return bytes(body)


def _envelope(headers: Mapping[str, str]) -> Envelope:
    return Envelope(
        delivery_id=headers.get("X-MLflow-Delivery-Id", ""),
        timestamp=headers.get("X-MLflow-Timestamp", ""),
        signature=headers.get("X-MLflow-Signature", ""),
    )
