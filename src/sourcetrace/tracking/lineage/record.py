"""What MLflow is told of an audit, as plain values that a file can hold until it can be sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import polars as pl
from pydantic import ConfigDict

from sourcetrace.audit.identity.data_digest import same_data
from sourcetrace.parameters import RegisteredModelParameters
from sourcetrace.reporting.templating import template
from sourcetrace.validation import JsonRecord

OPENING = "<!-- sourcetrace:audit -->"
CLOSING = "<!-- /sourcetrace:audit -->"
"""Around the card of an audit in a version's description; what people write around it is theirs."""

_CLOSED = ConfigDict(extra="forbid")

MATCHES = {True: "true", False: "false", None: "unknown"}
"""Whether the audited training data trained the version -> how tags say it."""


@dataclass(frozen=True)
class DataRecord:
    """A data set that was audited.

    Attributes:
        digest: Of its content, as `data_digest` returns it.
        rows: Examples.
        columns: Name -> polars type of its table's columns.
    """

    __pydantic_config__ = _CLOSED

    digest: str
    rows: int
    columns: Mapping[str, str]

    @classmethod
    def of_digests(cls, content: Mapping[str, Any] | None) -> Self | None:
        """Return one side of `data_digests`, which knows more of it, where there is one."""
        if content is None:
            return None
        return cls(content["digest"], content["rows"], content["columns"])


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that was audited."""

    __pydantic_config__ = _CLOSED

    id: str
    sha256: str
    step: int
    stage: str
    run: str
    optimizer: str

    @classmethod
    def of_manifest(cls, manifest: pl.DataFrame) -> tuple[Self, ...]:
        """Return the checkpoints of a manifest, in its order."""
        columns = ("sha256", "step", "stage", "run", "optimizer")
        return tuple(
            cls(id=row["checkpoint_id"], **{name: row[name] for name in columns})
            for row in manifest.iter_rows(named=True)
        )


@dataclass(frozen=True)
class AuditRecord(JsonRecord):
    """An audit that ended, whatever its outcome.

    Attributes:
        run_id: Of its MLflow run; empty where tracking was off.
        at: When it ended, UTC, ISO 8601.
        status: See `schemas.audit_log.STATUSES`; the gate's outcome, before the version's
            training data is compared.
        findings: What the gate's checks found wrong, a sentence each.
        task: Import path of the task's class; never its arguments.
        method: The attribution method.
        trust_status: In two words.
        trust_text: In a sentence.
        training_examples, queries, relabel, remove: Counts.
        check: Count of examples to review, under the name that records waiting to be sent have.
        attributed_share: Of the model's parameters.
        training_data, query_data: The data, where digests are known.
        checkpoints: In the order of training.
        report_sha256: Of the page.
        model: The audited version; None means one that the run registered itself.
        key: Name -> part of what the audit was made from, see `audit_key`; the parts that are not
            here are those of the version's audit before; None where they are not known.
    """

    __pydantic_config__ = _CLOSED

    run_id: str
    at: str
    status: str
    findings: tuple[str, ...]
    task: str
    method: str
    trust_status: str
    trust_text: str
    training_examples: int
    queries: int
    relabel: int
    check: int
    attributed_share: float
    remove: int = 0
    training_data: DataRecord | None = None
    query_data: DataRecord | None = None
    checkpoints: tuple[CheckpointFile, ...] = ()
    report_sha256: str | None = None
    model: RegisteredModelParameters | None = None
    key: Mapping[str, str] | None = None

    @property
    def suspect_fraction(self) -> float:
        """Share of the training examples with a suggested action."""
        return (self.relabel + self.remove + self.check) / max(1, self.training_examples)

    def data_matches(self, training_digest: str | None) -> bool | None:
        """Return whether the audited training data is that of a digest; None where unknown."""
        return same_data(training_digest, self.training_data.digest if self.training_data else None)

    def final_status(self, *, matches: bool | None) -> str:
        """Return what it ended as: exchanged training data fails it, whatever the gate said."""
        return "fail" if matches is False else self.status

    def card(self, *, status: str, data_matches: bool | None, experiment_id: str) -> str:
        """Return the card with its markers, in Markdown.

        Its last line alone, when and in which run, differs between audits of the same inputs.

        Args:
            status: What it ended as, the comparison of the training data included.
            data_matches: Whether the audited training data trained the version; None if unknown.
            experiment_id: Of the run, for the link.
        """
        return template("audit_card.md.j2", autoescape=False).render(
            record=self,
            status=status,
            data_matches=data_matches,
            experiment_id=experiment_id,
            markers=(OPENING, CLOSING),
        )
