"""What a run can say of its audit's key, put together while it runs."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sourcetrace.audit.identity.audit_key import AuditKey
from sourcetrace.audit.identity.made_of import code_digest
from sourcetrace.namespace import AuditCatalog
from sourcetrace.redaction import hide_credentials

logger = logging.getLogger(__name__)

_READ = ("checkpoint_manifest", "data_digests")
_SCORED = (*_READ, "covariances", "curvature", "attribution_scores")
"""Outputs of the numerical stages; a run that makes all of them knows what its audit is of."""


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
        files = dict(manifest.select("file", "sha256").iter_rows())
        return AuditKey.parts_of(
            data=self._made["data_digests"],
            checkpoints=self._audit.load("checkpoints").digests(files),
            code=code_digest(self._task_class()),
            parameters=self._audit.parameters(),
        )


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
