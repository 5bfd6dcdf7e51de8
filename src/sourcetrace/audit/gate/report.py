"""The gate's verdict as it is written to `gate.json`."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sourcetrace.schemas.metric_names import GateMetric

GATE_SCHEMA_VERSION: Final = "1.1"
"""Grows before the point when a reader of the file must change, behind it when fields are added."""

Outcome = Literal["pass", "warn", "inconclusive", "fail"]
Severity = Literal["warn", "inconclusive", "fail"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "warn", "inconclusive", "fail")
"""From the best to the worst; the worst check decides."""

FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]


class Published(BaseModel):
    """A part of a file that other programs read: frozen, and nothing undocumented in it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True
    )


class CheckResult(Published):
    """How one check came out.

    Attributes:
        name: The check in words, the same every night.
        metric: What it is about.
        status: What the check contributes to the outcome; `skipped`: it could not be held.
        severity: What exceeding the limit means.
        value: What was measured; null where nothing was, or it is not a finite number.
        limit: What was allowed, a baseline added in; null where there was none to compute.
        baseline: The approved value, of a check against a baseline.
        message: What was found, in a sentence.
        reason: Why it was skipped, in a few words; empty otherwise.
        advice: What to do; empty where nothing is to be done.
    """

    name: str
    metric: GateMetric
    status: Literal["pass", "warn", "inconclusive", "fail", "skipped"]
    severity: Severity
    value: FiniteNumber | None
    limit: FiniteNumber | None
    baseline: FiniteNumber | None
    message: str
    reason: str
    advice: str


class GateReport(Published):
    """The verdict on one audit.

    Attributes:
        schema_version: Of this file.
        sourcetrace_version: That wrote it.
        outcome: The worst of the checks.
        summary: The outcome in a sentence.
        scores_digest: SHA-256 of the scores that were judged.
        method: The attribution method of the scores.
        baseline: Path of the approved metrics, where one is set.
        checks: In the order of the parameters.
        metrics: Every metric that a check can be about; null where there is none.
    """

    schema_version: Literal["1.1"] = GATE_SCHEMA_VERSION
    sourcetrace_version: str
    outcome: Outcome
    summary: str
    scores_digest: str
    method: str
    baseline: str | None
    checks: tuple[CheckResult, ...]
    metrics: dict[GateMetric, FiniteNumber | None]
