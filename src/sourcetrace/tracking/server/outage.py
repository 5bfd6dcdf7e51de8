"""Which errors mean that MLflow's server is away, and which that it refuses what it is asked."""

import re
import sqlite3
from collections.abc import Iterator

import requests
import sqlalchemy.exc
import urllib3.exceptions
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException, RestException

from sourcetrace.redaction import error_line

_NO_ANSWER = (
    ConnectionError,
    TimeoutError,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    # The server answered 5xx until no retries were left.
    requests.exceptions.RetryError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
)

_NO_ANSWER_OF_A_STORE = {
    # botocore's, which not everybody has installed.
    "EndpointConnectionError",
    "ConnectionClosedError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
}

_SERVER_ERROR, _TOO_MANY = 500, 429

_STATUS = re.compile(r"failed with error code (\d{3})")

_WRONG_DATABASE = re.compile(
    "authentication failed|access denied|does not exist|unknown database|no password supplied"
    "|no pg_hba.conf entry|login failed",
    re.IGNORECASE,
)


def is_outage(error: BaseException) -> bool:
    """Return whether an error, or one behind it, says that a server gave no usable answer."""
    chain = list(_chain(error))
    if any(isinstance(one, sqlalchemy.exc.DBAPIError) and _is_wrong(one) for one in chain):
        return False
    return any(_is_outage(one) for one in chain)


def is_full_disk(error: BaseException) -> bool:
    """Return whether a local file had no room."""
    return any(
        isinstance(one, sqlite3.OperationalError) and "disk is full" in str(one)
        for one in (getattr(link, "orig", link) for link in _chain(error))
    )


def reason_of(error: BaseException) -> str:
    """Return what went wrong, in a line; a server's address may hold a password."""
    # The connection's own error says where and why; what MLflow makes of it is long.
    behind = [one for one in _chain(error) if isinstance(one, urllib3.exceptions.HTTPError)]
    return error_line(behind[-1] if behind else error, limit=200)


def _is_outage(error: BaseException) -> bool:
    if isinstance(error, _NO_ANSWER) or type(error).__name__ in _NO_ANSWER_OF_A_STORE:
        return True
    status = _http_status(error)
    return status is not None and (status >= _SERVER_ERROR or status == _TOO_MANY)


def _http_status(error: BaseException) -> int | None:
    """Return the status that a server answered with.

    MLflow's other errors say 500, too, without anybody having been asked.
    """
    if isinstance(error, RestException):
        return ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, _SERVER_ERROR)
    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return int(error.response.status_code)
    found = _STATUS.search(str(error)) if isinstance(error, MlflowException) else None
    return int(found[1]) if found else None


def _is_wrong(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Return whether a database is no use however long one waits; a local file is never away."""
    return isinstance(error.orig, sqlite3.Error) or bool(_WRONG_DATABASE.search(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
