"""What counts as a server that is away, and what as a mistake."""

import sqlite3

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError

from sourcetrace.tracking.server.outage import ServerAway, is_denial, is_outage, reason_of
from tests.tracking.door import free_port


def raised(error, behind):
    try:
        raise error from behind
    except type(error) as caught:
        return caught


def database(says):
    return OperationalError("SELECT 1", {}, RuntimeError(says))


@pytest.mark.parametrize(
    "error",
    [
        ServerAway("it was"),
        ConnectionResetError("reset"),
        raised(MlflowException("API request failed"), requests.exceptions.ConnectTimeout("slow")),
        raised(MlflowException("API request failed"), requests.exceptions.RetryError("many 503")),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}),
        MlflowException("API request to endpoint /x failed with error code 502 != 200. Body: ''"),
        raised(MlflowException("no"), database("connection refused")),
        database("the database system is starting up"),
    ],
)
def test_what_may_answer_later_is_an_outage(error):
    assert is_outage(error)
    assert not is_denial(error)


@pytest.mark.parametrize(
    ("error", "denial"),
    [
        (MlflowException("a wrong argument"), False),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "name"}), False),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "not you"}), True),
        (MlflowException("API request to /x failed with error code 401 != 200."), True),
        (database('password authentication failed for user "ada"'), False),
        (database('database "runs" does not exist'), False),
        (OperationalError("INSERT", {}, sqlite3.OperationalError("disk full")), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_will_not_answer_otherwise_later_is_none(error, denial):
    assert not is_outage(error)
    assert is_denial(error) == denial


def test_the_reason_says_where_and_hides_who():
    with pytest.raises(requests.exceptions.ConnectionError) as refused:
        requests.get(f"http://127.0.0.1:{free_port()}/", timeout=5)
    around = raised(MlflowException("API request to http://ada:hunter2@host"), refused.value)
    assert "Connection refused" in reason_of(around)
    assert "hunter2" not in reason_of(MlflowException("no answer of http://ada:hunter2@host"))
