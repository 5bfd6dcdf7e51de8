"""Messages that MLflow signed are taken; changed, old and unsigned ones are not."""

import dataclasses

import pytest

from sourcetrace.integrations.webhooks.signature import Envelope, Refused, sign, verify
from tests.integrations.webhooks.messages import NOW, SECRET, event, headers

BODY = event(description="größer als 3 €")


def envelope(body=BODY, **changes):
    given = headers(body)
    made = Envelope(
        delivery_id=given["X-MLflow-Delivery-Id"],
        timestamp=given["X-MLflow-Timestamp"],
        signature=given["X-MLflow-Signature"],
    )
    return dataclasses.replace(made, **changes)


def status_of(given, body=BODY, *, secret=SECRET, now=NOW):
    try:
        verify(given, body, secret=secret, now=now, tolerance_seconds=300)
    except Refused as refused:
        return refused.status
    return 202


def test_a_message_signed_by_mlflow_is_taken():
    assert status_of(envelope()) == 202


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_edge_of_the_time_allowed_is_taken(seconds):
    assert status_of(envelope(), now=NOW + seconds) == 202


@pytest.mark.parametrize("seconds", [-301, 301, 10**6])
def test_an_old_and_a_future_message_are_refused(seconds):
    assert status_of(envelope(), now=NOW + seconds) == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"delivery_id": "d-2"},
        {"timestamp": str(int(NOW) + 1)},
        {"signature": ""},
        {"signature": "v1,"},
        {"signature": "v2," + envelope().signature.removeprefix("v1,")},
        {"signature": envelope().signature.removeprefix("v1,")},
        {"signature": "vé"},
    ],
)
def test_a_changed_message_is_refused(changes):
    assert status_of(envelope(**changes)) == 401


def test_another_body_or_secret_is_refused():
    assert status_of(envelope(), BODY + b" ") == 401
    assert status_of(envelope(), secret="another") == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"delivery_id": ""},
        {"delivery_id": "d" * 201},
        {"timestamp": ""},
        {"timestamp": "1e9"},
        {"timestamp": "-5"},
        {"timestamp": "9" * 400},
        {"timestamp": "१८००००००००"},
    ],
)
def test_malformed_headers_are_refused_even_if_signed(changes):
    made = envelope(**changes)
    signature = sign(SECRET, delivery_id=made.delivery_id, timestamp=made.timestamp, body=BODY)
    assert status_of(dataclasses.replace(made, signature=signature)) == 400
