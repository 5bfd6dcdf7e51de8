"""Which events of MLflow's registry ask for an audit, and of what."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ValidationError

from sourcetrace.integrations.webhooks.signature import Refused

REQUEST_TAG = "audit.request"
"""Tag of a version that asks for an audit, whatever its value."""

_OWN_ALIAS = "audited"
_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)


class _Event(BaseModel):
    entity: str
    action: str
    data: dict[str, Any]


class RequestedAudit(NamedTuple):
    """A version to audit."""

    model: str
    version: str

    @classmethod
    def of(cls, body: bytes, *, models: Collection[str]) -> Self | None:
        """Return what a message asks to audit; None for an event that asks for nothing.

        A new version asks for it, a new alias, and the tag `audit.request`. What an audit writes
        itself, its tags and its alias, does not: it would never end.

        Args:
            body: The message, its signature verified.
            models: Names of the registered models that may be audited.

        Raises:
            Refused: 400 if it is no event of MLflow, 422 if the model is none of `models`.
        """
        try:
            event = _Event.model_validate_json(body)
        except ValidationError:
            raise Refused(400, "the body is no event of MLflow's registry") from None
        data = event.data
        match f"{event.entity}.{event.action}":
            case "model_version.created":
                asks = True
            case "model_version_alias.created":
                asks = data.get("alias") != _OWN_ALIAS
            case "model_version_tag.set":
                asks = data.get("key") == REQUEST_TAG
            case _:
                asks = False
        if not asks:
            return None
        model, version = data.get("name"), data.get("version")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise Refused(400, "the event has no version number")
        if not isinstance(model, str) or model not in models:
            raise Refused(422, "this model is not audited here")
        return cls(model, version)
