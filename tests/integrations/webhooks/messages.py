"""Messages as MLflow sends them, signed by MLflow's own function."""

import json

from mlflow.webhooks import constants, delivery

SECRET = "a secret of the tests"
NOW = 1_800_000_000.0


def event(kind="model_version.created", **data):
    """Return the body of an event about version 3 of `churn`."""
    entity, action = kind.split(".")
    content = {
        "entity": entity,
        "action": action,
        "timestamp": "2027-01-15T08:00:00+00:00",
        "data": {"name": "churn", "version": "3", **data},
    }
    return json.dumps(content).encode()


def headers(body, *, secret=SECRET, delivery_id="d-1", timestamp=NOW):
    """Return the headers with which MLflow sends a body."""
    sent = str(int(timestamp))
    signature = delivery._generate_hmac_signature(secret, delivery_id, sent, body.decode())
    return {
        constants.WEBHOOK_DELIVERY_ID_HEADER: delivery_id,
        constants.WEBHOOK_TIMESTAMP_HEADER: sent,
        constants.WEBHOOK_SIGNATURE_HEADER: signature,
    }
