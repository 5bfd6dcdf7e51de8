"""Check decisions, add them to the log, and write what follows from all of them."""

import getpass
import os
from datetime import UTC, datetime
from typing import Any

import polars as pl
from kedro.pipeline import Pipeline

from sourcetrace.audit.decisions.check import Audited
from sourcetrace.audit.decisions.content import inputs_part
from sourcetrace.audit.decisions.precision import draw_sample, error_shares, refuse_to_overwrite
from sourcetrace.audit.decisions.standing import cleaned_data, standing_decisions
from sourcetrace.parameters import DecisionParameters
from sourcetrace.pipelines.shared.step import step
from sourcetrace.quoting import quoted
from sourcetrace.reporting.decided import DecisionSummary, count_decisions
from sourcetrace.reporting.review import spreadsheet_text


def check_decisions(
    review_list: pl.DataFrame,
    query_table: pl.DataFrame,
    decision_log: pl.DataFrame,
    decisions_file: pl.DataFrame,
    filled_sample: pl.DataFrame,
    decisions: DecisionParameters,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows of the file that the log does not have yet, twice, or refuse the file."""
    known = (review_list["given_label"], review_list["predicted_label"], query_table["label"])
    labelled = review_list["given_label"].is_not_null().any()
    labels = frozenset(pl.concat(known).drop_nulls().unique()) if labelled else frozenset()
    new = Audited(review_list, labels, decision_log).new_decisions(
        decisions_file,
        called=str(decisions.path),
        decided_by=decisions.by or _user(),
        decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if decisions.sample:
        refuse_to_overwrite(filled_sample, decision_log, new, decisions_file)
    return new, new


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container that knows no names
        return f"user {os.getuid()}"


def clean_data(
    review_list: pl.DataFrame, all_decisions: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the manifest, twice: for programs and for spreadsheets."""
    table = cleaned_data(review_list, all_decisions)
    return table, table.with_columns(quoted(pl.col(pl.String)))


def sample_for_review(
    review_list: pl.DataFrame,
    all_decisions: pl.DataFrame,
    audit_summary: dict[str, Any],
    decisions: DecisionParameters,
) -> pl.DataFrame:
    """Return a random sample to decide on, as a spreadsheet shows it; no rows if none is wanted."""
    standing = standing_decisions(review_list, all_decisions)
    sample = draw_sample(
        review_list.with_columns(standing["decision"]),
        decisions.sample,
        seed=decisions.seed,
        scores_digest=audit_summary["scores_digest"],
    )
    return sample.with_columns(spreadsheet_text(pl.col(pl.String)))


def summarise_decisions(
    review_list: pl.DataFrame,
    all_decisions: pl.DataFrame,
    new_decisions: pl.DataFrame,
    decisions_file: pl.DataFrame,
    review_sample: pl.DataFrame,
    audit_summary: dict[str, Any],
) -> dict[str, Any]:
    """Return what was decided, and how often suspects are errors by that."""
    digest = audit_summary["scores_digest"]
    standing = standing_decisions(review_list, all_decisions)
    sample = review_sample.filter(scores_digest=digest)
    others = new_decisions.filter(~pl.col("scores_digest").is_in([digest, ""]))
    # As another environment's are: both have the one log. Rows that it does not know are refused.
    absent = decisions_file.join(review_list, on=inputs_part(), how="anti")
    return DecisionSummary(
        scores_digest=digest,
        added=count_decisions(new_decisions["decision"]),
        repeated=decisions_file.height - new_decisions.height,
        of_other_audits=others.height,
        standing=count_decisions(standing["decision"]),
        examples=review_list.height,
        shares=error_shares(review_list, standing, None if sample.is_empty() else sample),
        sampled=not sample.is_empty(),
        absent=absent.height,
    ).to_json()


PIPELINE = Pipeline(
    [
        step(check_decisions, ["new_decisions", "all_decisions"]),
        step(clean_data, ["cleaned_data", "cleaned_data_csv"]),
        step(sample_for_review, "review_sample"),
        step(summarise_decisions, "decision_summary"),
    ]
)
