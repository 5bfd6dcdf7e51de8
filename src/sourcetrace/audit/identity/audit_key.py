"""The key of an audit: digests of all that decides how it ends, computable without running it.

A version whose tag `audit.key` is the key of today's inputs needs no audit. The key has its parts
side by side, so that a reader sees which of them changed, and so that a run which only judges again
replaces its own part alone.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from sourcetrace import __version__
from sourcetrace.audit.gate.baseline import Baseline
from sourcetrace.audit.identity.made_of import MadeOf, checked
from sourcetrace.files import digest_of, read_optional_json
from sourcetrace.namespace import AuditCatalog
from sourcetrace.parameters import GateParameters, ReportParameters
from sourcetrace.redaction import hide_credentials

logger = logging.getLogger(__name__)

KEY = "audit.key"
"""Tag of a version."""

NO_KEY = "none"
"""Stands in the tag where the inputs of an audit are not all known."""

_READ = ("checkpoint_manifest", "data_digests")
_SCORED = (*_READ, "query_signals", "curvature", "attribution_scores")
"""Outputs of the numerical stages; a run that makes all of them knows what its audit is of."""


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

    @staticmethod
    def limits_of(parameters: Mapping[str, Any]) -> str:
        """Return the part that says how an audit is reported and judged.

        Raises:
            InputError: If a parameter or the baseline is wrong.
        """
        gate = checked("gate", GateParameters, parameters)
        path = gate.pop("baseline")
        content = read_optional_json(None if path is None else Path(path))
        baseline = Baseline.parse(content, path=path)
        return digest_of([gate, baseline.metrics, checked("report", ReportParameters, parameters)])

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Any],
        *,
        data: Mapping[str, Mapping[str, Any]],
        checkpoints: Mapping[str, str],
        code: str,
    ) -> Self:
        """Return the key of an audit with these inputs.

        Args:
            parameters: Of the project, by group.
            data: What `checkpoint_ingest.digest_data` returned.
            checkpoints: Name -> SHA-256 of the files.
            code: Digest of the task's code.

        Raises:
            InputError: If a parameter, or a file that one names, is wrong.
        """
        made = MadeOf.of(
            parameters,
            data=MadeOf.data_part(data),
            checkpoints=MadeOf.checkpoints_part(checkpoints),
            code=code,
        )
        return cls(
            sourcetrace=__version__,
            data=made.data,
            checkpoints=made.checkpoints,
            parameters=digest_of(
                [made.task, made.segments, made.gradients, made.scores]
                + [made.kept_curvature] * bool(made.kept_curvature)
            ),
            limits=cls.limits_of(parameters),
        )

    @classmethod
    def complete(cls, parts: Mapping[str, str] | None, *, earlier: str | None) -> str:
        """Return the tag of an audit that knows some parts of its key, and keeps the others.

        Args:
            parts: Name -> part; None where the audit cannot say what it was made from.
            earlier: The tag so far.
        """
        kept = cls.parse(earlier)
        if parts is None or (kept is None and set(parts) != {one.name for one in fields(cls)}):
            return NO_KEY
        return cls(**{**(asdict(kept) if kept else {}), **parts}).text


class RunKey:
    """Watches what a run makes.

    Args:
        audit: The audit's entries in the run's catalog.
        task_class: Returns the import path of the task's class.
    """

    def __init__(self, audit: AuditCatalog, task_class: Callable[[], str]) -> None:
        self._audit = audit
        self._task_class = task_class
        self._made: dict[str, Any] = {}
        self._inputs: dict[str, str] | None = None

    def see(self, outputs: Mapping[str, Any]) -> None:
        """Take note of a node's outputs."""
        self._made |= {name: outputs.get(name) if name in _READ else None for name in outputs}
        if any(name in outputs for name in _READ) and set(_READ) <= set(self._made):
            # Now, not at the end: code or limits that somebody edits meanwhile are not the audit's.
            self._inputs = _logged(self._of_what_was_read)

    def parts(self) -> dict[str, str] | None:
        """Return the parts that the run decided; None where its audit's inputs are not known."""
        made = set(_SCORED) & set(self._made)
        if not made:
            return _logged(lambda: {"limits": AuditKey.limits_of(self._audit.parameters())})
        # Of an audit that was resumed, nobody knows what the other stages were run with.
        return self._inputs if made == set(_SCORED) else None

    def _of_what_was_read(self) -> dict[str, str]:
        manifest = self._made["checkpoint_manifest"]
        parameters = self._audit.parameters()
        # Of more checkpoints than are audited, the others' learning rates count as well.
        thinned = (parameters.get("checkpoints") or {}).get("at_most") is not None
        files = {} if thinned else dict(manifest.select("file", "sha256").iter_rows())
        key = AuditKey.of(
            parameters,
            data=self._made["data_digests"],
            checkpoints=self._audit.load("checkpoints").digests(files),
            code=MadeOf.code_of(self._task_class()),
        )
        return asdict(key)


def _logged(key: Callable[[], dict[str, str]]) -> dict[str, str] | None:
    """Return a key, or say that there is none: it is no reason to end an audit."""
    try:
        return key()
    except Exception as error:
        logger.warning(
            "It is not known what this audit is of (%s); `sourcetrace audit --pending` will audit "
            "the version again.",
            hide_credentials(str(error).split("\n", 1)[0]),
        )
        return None
