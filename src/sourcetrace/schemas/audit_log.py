"""The history of audits."""

import pandera.polars as pa

from sourcetrace.schemas.table import Table

STATUSES = ("pass", "warn", "fail", "inconclusive", "unjudged", "error")
"""What an audit ends as: the gate's outcome; `unjudged` without a gate; `error` where the run
broke off after the audit's figures were there."""


class AuditLog(Table):
    """One row an audit, in the order in which they ended.

    Attributes:
        sequence: From 1, without gaps; the order, whatever the clock says.
        at: When, UTC, ISO 8601.
        run_id: Of the MLflow run; empty where tracking was off.
        model_name, model_version: The audited version, where there is one.
        status: One of `STATUSES`.
        trust: How far the scores can be trusted, in two words.
        suspect_fraction: Share of the training examples with a suggested action.
        training_digest, query_digest: Of the data's content.
        report_sha256: Of the page.
        previous_hash: The row before's `hash`; zeros in the first.
        hash: SHA-256 of all other columns.
    """

    sequence: int = pa.Field(ge=1, unique=True)
    at: str
    run_id: str
    model_name: str | None = pa.Field(nullable=True)
    model_version: str | None = pa.Field(nullable=True)
    status: str = pa.Field(isin=STATUSES)
    trust: str
    suspect_fraction: float | None = pa.Field(nullable=True, ge=0, le=1)
    training_digest: str | None = pa.Field(nullable=True)
    query_digest: str | None = pa.Field(nullable=True)
    report_sha256: str | None = pa.Field(nullable=True, str_matches="^[0-9a-f]{64}$")
    previous_hash: str = pa.Field(str_matches="^[0-9a-f]{64}$")
    hash: str = pa.Field(str_matches="^[0-9a-f]{64}$")
