"""What counts as a server that is away, and what as a mistake."""

import sqlite3

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError

from sourcetrace.tracking.server.outage import is_full_disk, is_outage, reason_of
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


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("a wrong argument"),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "name"}),
        RestException({"error_code": "PERMISSION_DENIED", "message": "not you"}),
        MlflowException("API request to /x failed with error code 401 != 200."),
        database('password authentication failed for user "ada"'),
        database('database "runs" does not exist'),
        OperationalError("INSERT", {}, sqlite3.OperationalError("disk full")),
        ValueError("a bug"),
    ],
)
def test_what_will_not_answer_otherwise_later_is_none(error):
    assert not is_outage(error)


def test_the_reason_says_where_and_hides_who():
    with pytest.raises(requests.exceptions.ConnectionError) as refused:
        requests.get(f"http://127.0.0.1:{free_port()}/", timeout=5)
    around = raised(MlflowException("API request to http://ada:hunter2@host"), refused.value)
    assert "Connection refused" in reason_of(around)
    assert "hunter2" not in reason_of(MlflowException("no answer of http://ada:hunter2@host"))


def test_a_full_disk_is_known_behind_what_mlflow_makes_of_it():
    full = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    assert is_full_disk(raised(MlflowException("no"), full))
    assert not is_full_disk(database("disk is full"))
