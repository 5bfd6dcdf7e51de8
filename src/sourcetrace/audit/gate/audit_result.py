"""The result of an audit for other programs: `audit.json`."""

from typing import Any, Final, Literal

from sourcetrace.audit.gate.report import FiniteNumber, Outcome, Published
from sourcetrace.schemas.metric_names import GateMetric

AUDIT_SCHEMA_VERSION: Final = "2.0"
"""Grows before the point when a reader of the file must change, behind it when fields are added."""


class AuditedCheckpoint(Published):
    """A checkpoint that was read.

    Attributes:
        id: Its name in the manifest.
        step: Optimiser steps so far.
        sha256: Of its file.
    """

    id: str
    step: int
    sha256: str


class AuditedData(Published):
    """Data that was read.

    Attributes:
        digest: Of its items, labels, ids and order.
        rows: How many examples.
    """

    digest: str
    rows: int


class AuditCounts(Published):
    """How much was audited."""

    training_examples: int
    queries: int
    runs: int
    checkpoints: int
    segments: int


class AuditTrust(Published):
    """How far the scores can be trusted.

    Attributes:
        status: In two words.
        text: In a sentence.
        lds: Rank correlation of predicted and retrained outcomes; null where not verified.
        lds_low: Lower end of its 95 % interval.
    """

    status: Literal["Verified", "Not confirmed", "Not verified"]
    text: str
    lds: FiniteNumber | None
    lds_low: FiniteNumber | None


class AuditDifference(Published):
    """What changed since the audit before of the same task and model.

    Attributes:
        previous_at: When that audit ended, UTC, ISO 8601.
        previous_scores_digest: SHA-256 of its scores.
        matched_by: How examples were known again: by the content of their inputs, or by id.
        new: Suspects that were none before.
        persisting: Suspects of both audits.
        resolved: Suspects of the audit before that were changed, or decided to be kept.
        resolved_by: Of these, how many were relabelled, edited, removed or kept.
        dropped_out: Suspects of the audit before that are none now, though nothing was done.
        unchanged_examples: Examples of both audits with the same content and label.
        score_rank_correlation: Of their harm; null where there is no order to compare.
        added: Training examples that the audit before did not have.
        removed: Training examples of the audit before that are gone.
        relabelled: Training examples whose label was changed.
        edited: Training examples whose content was changed under the same id.
        training_data_same: Whether the digests are equal; null where they cannot be compared.
        queries_same: The same of the queries.
    """

    previous_at: str
    previous_scores_digest: str
    matched_by: Literal["content", "id"]
    new: int
    persisting: int
    resolved: int
    resolved_by: dict[str, int]
    dropped_out: int
    unchanged_examples: int
    score_rank_correlation: FiniteNumber | None
    added: int
    removed: int
    relabelled: int
    edited: int
    training_data_same: bool | None
    queries_same: bool | None


class AuditResult(Published):
    """What was audited, with what, and what came out.

    Attributes:
        schema_version: Of this file.
        versions: Of sourcetrace, python and the libraries that decide the numbers.
        task: Import path of the task's class; its arguments may be secret and are not here.
        method: The attribution method of the scores.
        parameters: Of the run that wrote this file, by group.
        scores_digest: SHA-256 of the scores.
        data: `training` and `queries`.
        checkpoints: In the order of training.
        counts: How much was audited.
        actions: Number of examples by suggested action.
        metrics: As in gate.json.
        suspects: Ids of the first suspects, the most suspicious first.
        trust: How far the scores can be trusted.
        comparison: What changed since the audit before; null of a first audit.
        gate: The gate's outcome; gate.json has the checks.
    """

    schema_version: Literal["2.0"] = AUDIT_SCHEMA_VERSION
    versions: dict[str, str]
    task: str
    method: str
    parameters: dict[str, dict[str, Any]]
    scores_digest: str
    data: dict[str, AuditedData]
    checkpoints: tuple[AuditedCheckpoint, ...]
    counts: AuditCounts
    actions: dict[str, int]
    metrics: dict[GateMetric, FiniteNumber | None]
    suspects: tuple[str, ...]
    trust: AuditTrust
    comparison: AuditDifference | None
    gate: Outcome
