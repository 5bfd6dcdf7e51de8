"""An alert gets through where it can, and its failure is a line without the address."""

import json
import logging
import socket
import threading

import pytest

from sourcetrace.integrations.alerts.delivery import send_alert
from sourcetrace.integrations.webhooks.signature import Refused, verify
from tests.integrations.alerts.receiver import as_of_mlflow, receiving

PAYLOAD = {"text": "größer", "outcome": "fail"}


def send(url, *, secret=None, timeout_seconds=10, total_seconds=30):
    return send_alert(
        PAYLOAD,
        url=url,
        secret=secret,
        timeout_seconds=timeout_seconds,
        total_seconds=total_seconds,
        first_wait=0.001,
    )


@pytest.fixture(autouse=True)
def said(caplog):
    """Check of every test that the log has no address."""
    caplog.set_level(logging.DEBUG, logger="sourcetrace")
    yield caplog
    assert "T0KEN" not in caplog.text
    assert "127.0.0.1" not in caplog.text


@pytest.fixture(autouse=True)
def no_leaking_log_of_others(caplog):
    caplog.set_level(logging.WARNING, logger="urllib3")


def test_a_receiver_that_recovers_gets_the_same_message_until_it_takes_it():
    with receiving(500, 503, 429, 200) as receiver:
        assert send(receiver.url)
    assert receiver.alerts == [PAYLOAD] * 4
    assert len({headers["X-Sourcetrace-Delivery-Id"] for headers, _ in receiver.got}) == 1
    assert receiver.got[0][0]["Content-Type"] == "application/json"
    assert "X-Sourcetrace-Signature" not in receiver.got[0][0]


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_a_refusal_is_final_and_no_redirection_is_followed(status, said):
    with receiving(status, 200) as receiver:
        assert not send(receiver.url)
    assert len(receiver.got) == 1
    assert f"the receiver answered {status}" in said.text


def test_a_receiver_that_never_recovers_is_given_up(said):
    with receiving(*[500] * 1000) as receiver:
        assert not send(receiver.url, total_seconds=0.3)
    assert len(receiver.got) > 1
    assert "The alert was not sent: " in said.text


def test_where_nobody_listens_it_is_given_up(said):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/hooks/T0KEN"
        assert not send(url, total_seconds=0.3)
    assert "The alert was not sent: " in said.text


def test_a_slow_receiver_is_asked_again():
    with receiving(threading.Event(), 200) as receiver:
        assert send(receiver.url, timeout_seconds=0.2)
    assert len(receiver.got) == 2


def test_a_receiver_that_holds_on_to_a_request_does_not_hold_the_audit(said):
    never = threading.Event()
    with receiving(never) as receiver:
        # One attempt would wait a minute.
        assert not send(receiver.url, timeout_seconds=60, total_seconds=0.3)
        assert "no answer within 0.3 seconds" in said.text


@pytest.mark.parametrize("url", ["file:///etc/T0KEN", "http://", "http://[T0KEN"])
def test_what_is_no_address_is_no_crash(url):
    assert not send(url)


def test_the_signature_verifies_as_mlflows_own():
    with receiving(200) as receiver:
        assert send(receiver.url, secret="hunter2")
    headers, body = receiver.got[0]
    assert json.loads(body) == PAYLOAD
    given = as_of_mlflow(headers)
    checks = {"now": float(given["X-MLflow-Timestamp"]), "tolerance_seconds": 300}
    assert verify(given, body, secret="hunter2", **checks) == given["X-MLflow-Delivery-Id"]
    with pytest.raises(Refused):
        verify(given, body, secret="another", **checks)
