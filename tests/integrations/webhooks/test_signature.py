"""Messages that MLflow signed are taken; changed, old and unsigned ones are not."""

import pytest

from sourcetrace.integrations.webhooks.signature import Refused, sign, verify
from tests.integrations.webhooks.messages import NOW, SECRET, event, headers

BODY = event(description="größer als 3 €")


def changed(**changes):
    return {**headers(BODY), **{f"X-MLflow-{name}": value for name, value in changes.items()}}


def status_of(given, body=BODY, *, secret=SECRET, now=NOW):
    try:
        assert verify(given, body, secret=secret, now=now, tolerance_seconds=300) == "d-1"
    except Refused as refused:
        return refused.status
    return 202


def test_a_message_signed_by_mlflow_is_taken():
    assert status_of(headers(BODY)) == 202


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_edge_of_the_time_allowed_is_taken(seconds):
    assert status_of(headers(BODY), now=NOW + seconds) == 202


@pytest.mark.parametrize("seconds", [-301, 301, 10**6])
def test_an_old_and_a_future_message_are_refused(seconds):
    assert status_of(headers(BODY), now=NOW + seconds) == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"Delivery-Id": "d-2"},
        {"Timestamp": str(int(NOW) + 1)},
        {"Signature": ""},
        {"Signature": "v1,"},
        {"Signature": "v2," + headers(BODY)["X-MLflow-Signature"].removeprefix("v1,")},
        {"Signature": headers(BODY)["X-MLflow-Signature"].removeprefix("v1,")},
        {"Signature": "vé"},
    ],
)
def test_a_changed_message_is_refused(changes):
    assert status_of(changed(**changes)) == 401


def test_another_body_or_secret_is_refused():
    assert status_of(headers(BODY), BODY + b" ") == 401
    assert status_of(headers(BODY), secret="another") == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"Delivery-Id": ""},
        {"Delivery-Id": "d" * 201},
        {"Timestamp": ""},
        {"Timestamp": "1e9"},
        {"Timestamp": "-5"},
        {"Timestamp": "9" * 400},
        {"Timestamp": "१८००००००००"},
    ],
)
def test_malformed_headers_are_refused_even_if_signed(changes):
    given = changed(**changes)
    signed = {
        "delivery_id": given["X-MLflow-Delivery-Id"],
        "timestamp": given["X-MLflow-Timestamp"],
    }
    given["X-MLflow-Signature"] = sign(SECRET, **signed, body=BODY)
    assert status_of(given) == 400


@pytest.mark.parametrize("name", ["Delivery-Id", "Timestamp", "Signature"])
def test_a_missing_header_is_refused(name):
    given = headers(BODY)
    del given[f"X-MLflow-{name}"]
    assert status_of(given) == (401 if name == "Signature" else 400)
