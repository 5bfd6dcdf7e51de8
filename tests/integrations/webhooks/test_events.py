"""Which events ask for an audit."""

import json

import pytest
from mlflow.webhooks.types import (
    ModelVersionAliasCreatedPayload,
    ModelVersionCreatedPayload,
    ModelVersionTagSetPayload,
    RegisteredModelCreatedPayload,
)

from sourcetrace.integrations.webhooks.events import RequestedAudit
from sourcetrace.integrations.webhooks.signature import Refused
from sourcetrace.tracking.lineage.model_version import ALIAS
from tests.integrations.webhooks.messages import event

MODELS = {"churn": None}


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        (event(), True),
        (event("model_version_alias.created", alias="candidate"), True),
        (event("model_version_alias.created", alias=ALIAS), False),
        (event("model_version_tag.set", key="audit.request", value="$(reboot)"), True),
        (event("model_version_tag.set", key="audit.status", value="fail"), False),
        (event("model_version_tag.deleted", key="audit.request"), False),
        (event("registered_model.created"), False),
        (event("prompt_version.created"), False),
    ],
)
def test_new_versions_new_aliases_and_the_tag_ask_and_an_audits_own_writing_does_not(body, asks):
    assert RequestedAudit.of(body, models=MODELS) == (
        RequestedAudit("churn", "3") if asks else None
    )


@pytest.mark.parametrize(
    ("entity", "action", "payload", "status"),
    [
        ("model_version", "created", ModelVersionCreatedPayload, 422),
        ("model_version_alias", "created", ModelVersionAliasCreatedPayload, 422),
        ("model_version_tag", "set", ModelVersionTagSetPayload, None),
        ("registered_model", "created", RegisteredModelCreatedPayload, None),
    ],
)
def test_mlflows_own_examples_are_understood(entity, action, payload, status):
    """MLflow sends them when somebody tests a webhook; their model is none of ours."""
    body = json.dumps({"entity": entity, "action": action, "data": payload.example()}).encode()
    assert refusal(body) == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (event(name="fraud"), 422),
        (event(name=None), 422),
        (event(name=["churn"]), 422),
        (event(version="3; reboot"), 400),
        (event(version="3,task.class=os.system"), 400),
        (event(version="٣"), 400),
        (event(version=3), 400),
        (event(version="9" * 19), 400),
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b'{"entity": "model_version", "action": "created"}', 400),
        (b'{"entity": "model_version", "action": "created", "data": []}', 400),
        (b'{"entity": 1, "action": "created", "data": {}}', 400),
    ],
)
def test_what_is_no_event_of_an_allowed_model_is_refused(body, status):
    assert refusal(body) == status


def refusal(body):
    try:
        RequestedAudit.of(body, models=MODELS)
    except Refused as refused:
        return refused.status
    return None
