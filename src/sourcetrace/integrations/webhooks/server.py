"""The HTTP side: bounded reading, verifying, queueing; every answer comes at once."""

import logging
from asyncio import Transport
from collections.abc import Collection
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.queue import AuditQueue
from sourcetrace.integrations.webhooks.signature import Refused, verify

logger = logging.getLogger(__name__)

_LONGEST_BODY = 256 * 1024
"""Bytes. MLflow's largest event holds a version's description and its tags."""

_CONNECTION_SECONDS = 5.0


class _BoundedConnection(H11Protocol):
    """A connection that ends after a while, however little of a request has come."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Let it end in time: uvicorn waits without end for the first request."""
        super().connection_made(transport)
        self.loop.call_later(_CONNECTION_SECONDS, transport.abort)


SERVER_OPTIONS: dict[str, Any] = {
    "http": _BoundedConnection,
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    # Of connections, half-open ones included: fewer than a process may have files.
    "limit_concurrency": 128,
    "timeout_graceful_shutdown": 5,
    "lifespan": "off",
    "ws": "none",
}
"""How uvicorn serves the application."""


def make_application(
    queue: AuditQueue, *, secret: str, models: Collection[str], tolerance_seconds: float
) -> Starlette:
    """Return the application: POST /mlflow and GET /health.

    Args:
        queue: Takes what is asked for.
        secret: Shared with MLflow.
        models: Registered models that may be audited.
        tolerance_seconds: How old a message may be, and how far in the future.
    """

    def admit(request: Request, body: bytes) -> str:
        delivery_id = verify(
            request.headers,
            body,
            secret=secret,
            now=queue.now(),
            tolerance_seconds=tolerance_seconds,
        )
        try:
            asked = RequestedAudit.of(body, models=models)
        except Refused:
            # What is signed is remembered even if it is refused.
            queue.accept(delivery_id, None)
            raise
        queue.accept(delivery_id, asked)
        if asked is None:
            return "ignored"
        logger.info("An audit of %s version %s waits.", asked.model, asked.version)
        return "queued"

    async def receive(request: Request) -> Response:
        try:
            status = await run_in_threadpool(admit, request, await _read(request))
        except Refused as refused:
            logger.warning("Refused a message (%s): %s.", refused.status, refused)
            return JSONResponse({"error": str(refused)}, status_code=refused.status)
        except ClientDisconnect:
            # There is nobody to answer.
            return Response(status_code=400)
        return JSONResponse({"status": status}, status_code=202)

    def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", **queue.counts()})

    return Starlette(routes=[Route("/mlflow", receive, methods=["POST"]), Route("/health", health)])


async def _read(request: Request) -> bytes:
    """Return the body, of which no more is read than is allowed."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_BODY:
            raise Refused(413, f"the body is longer than {_LONGEST_BODY} bytes")
    return bytes(body)
