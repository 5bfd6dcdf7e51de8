"""The key of an audit: digests of all that decides how it ends, computable without running it.

A version whose tag `audit.key` is the key of today's inputs needs no audit. The key has its parts
side by side, so that a reader sees which of them changed, and so that a run which only judges again
replaces its own part alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from sourcetrace import __version__
from sourcetrace.audit.gate.baseline import parse_baseline
from sourcetrace.errors import InputError
from sourcetrace.files import read_optional_json
from sourcetrace.parameters import (
    AttributionParameters,
    EnsembleParameters,
    GateParameters,
    ReportParameters,
    SegmentParameters,
    TaskParameters,
)
from sourcetrace.redaction import hide_values

KEY = "audit.key"
"""Tag of a version."""

NO_KEY = "none"
"""Stands in the tag where the inputs of an audit are not all known."""

_LENGTH = 16
"""Hexadecimal digits a part: 64 bits."""


@dataclass(frozen=True)
class AuditKey:
    """What an audit was made from.

    Attributes:
        sourcetrace: Version of this package.
        data: Of the training data and the queries.
        checkpoints: Of the files, their names included.
        parameters: Of the task, its code included, and of the numerical stages.
        limits: Of the report's and the gate's parameters, and of the approved baseline.
    """

    sourcetrace: str
    data: str
    checkpoints: str
    parameters: str
    limits: str

    @property
    def text(self) -> str:
        """The key as the tag has it."""
        return "/".join(asdict(self).values())

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return the key in a tag; None where it holds none."""
        parts = (text or "").split("/")
        return cls(*parts) if len(parts) == len(fields(cls)) else None

    def changes_since(self, earlier: "AuditKey") -> list[str]:
        """Return the names of the parts that differ."""
        return [
            field.name
            for field in fields(self)
            if getattr(self, field.name) != getattr(earlier, field.name)
        ]


def complete_key(parts: Mapping[str, str] | None, *, earlier: str | None) -> str:
    """Return the tag of an audit that knows some parts of its key, and keeps the others.

    Args:
        parts: Name -> part; None where the audit cannot say what it was made from.
        earlier: The tag so far.
    """
    kept = AuditKey.parse(earlier)
    if parts is None or (kept is None and set(parts) != {one.name for one in fields(AuditKey)}):
        return NO_KEY
    return AuditKey(**{**(asdict(kept) if kept else {}), **parts}).text


def key_parts(
    *,
    data: Mapping[str, Mapping[str, Any]],
    checkpoints: Mapping[str, str],
    code: str,
    parameters: Mapping[str, Any],
) -> dict[str, str]:
    """Return all parts of the key.

    Args:
        data: What `checkpoint_ingest.digest_data` returned.
        checkpoints: Name -> SHA-256 of the files.
        code: Digest of the task's code.
        parameters: Of the project, by group.

    Raises:
        InputError: If a parameter, or a file that one names, is wrong.
    """
    sides = {side: [one["digest"], one["table"]] for side, one in data.items()}
    return {
        "sourcetrace": __version__,
        "data": _digest(sides),
        "checkpoints": _digest(dict(checkpoints)),
        "parameters": _digest([code, _numerical(parameters)]),
        "limits": limits_part(parameters),
    }


def limits_part(parameters: Mapping[str, Any]) -> str:
    """Return the part that says how an audit is reported and judged.

    Raises:
        InputError: If a parameter or the baseline is wrong.
    """
    gate = _checked("gate", GateParameters, parameters)
    path = gate.pop("baseline")
    content = read_optional_json(None if path is None else Path(path))
    baseline = parse_baseline(content, path=path)
    return _digest([gate, baseline.metrics, _checked("report", ReportParameters, parameters)])


def _numerical(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the scores.

    Neither the group `gradients` nor the device: they change no more than the rounding.
    """
    task = _checked("task", TaskParameters, parameters)
    checkpoints = dict(parameters.get("checkpoints") or {})
    attribution = _checked("attribution", AttributionParameters, parameters)
    del attribution["device"]
    return {
        # A password is no input of the audit, and no digest of it belongs on a server.
        "task": [task["class"], hide_values(task["arguments"])],
        "stages": checkpoints.get("stages"),
        "learning_rates": _file_digest(checkpoints.get("learning_rates")),
        "segments": _checked("segments", SegmentParameters, parameters),
        "attribution": attribution,
        "ensemble": _checked("ensemble", EnsembleParameters, parameters),
    }


def _checked(name: str, group: type[BaseModel], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with its defaults, whether Kedro has checked it already or not."""
    try:
        return group.model_validate(parameters.get(name) or {}).model_dump(
            mode="json", by_alias=True
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        raise InputError(f"{where}: {first['msg']}.") from error


def _file_digest(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"checkpoints.learning_rates: {path} cannot be read: {error}") from error


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
