"""The review list: every training example, the most suspicious first, and what to do about it.

Suspicion orders it because that finds most wrong labels (docs/reference/results.md); harm stands
beside it and says what a removal is worth.
"""

import polars as pl
import polars.selectors as cs

from sourcetrace.audit.suggestions.actions import class_of_example, suggest_actions
from sourcetrace.formats import UNSEEN
from sourcetrace.parameters import ReportParameters
from sourcetrace.quoting import quoted
from sourcetrace.schemas import ReviewList
from sourcetrace.schemas.review import is_flagged
from sourcetrace.schemas.table import beside

_LABEL = 80
_MADE_OF = ("mean_query_loss_influence", "corrected_probability", "other_label")
_OF_DECISIONS = {"content_digest", "decision", "error_probability"}


def build_review_list(
    *,
    train_table: pl.DataFrame,
    final_signals: pl.DataFrame,
    query_influence: pl.LazyFrame,
    self_influence: pl.LazyFrame,
    suspicions: pl.LazyFrame,
    queries: int,
    report: ReportParameters,
) -> pl.DataFrame:
    """Join what is known of each example, rank it and suggest an action.

    Args:
        train_table: Ids, given labels, stages and index.
        final_signals: Signals at the final checkpoint, one row an example.
        query_influence: Influence on all queries together.
        self_influence: Influence on the example's own loss.
        suspicions: How wrong its label looks.
        queries: Number of queries; influence on the mean loss times it is on the sum.
        report: Thresholds.

    Returns:
        The table `schemas.ReviewList` describes, without what people decided.
    """
    given = train_table.select(
        "example_id", "index", pl.col("stage").list.join(", "), given_label="label"
    )
    table = self_influence.lazy().collect()  # of those that were not set aside
    needed = cs.by_name(*ReviewList.columns(), *_MADE_OF, require_all=False)
    for other in (given, final_signals, query_influence, suspicions):
        table = beside(table, other.lazy().select(needed).collect())
    table = (
        table.with_columns(
            total_query_loss_influence=pl.col("mean_query_loss_influence") * queries,
            self_influence_rank=pl.col("self_influence")
            .rank("ordinal", descending=True)
            .over(class_of_example())
            .cast(pl.Int64),
        )
        # Ids break ties, so that the same scores give the same list.
        .sort(["suspicion", "example_id"], descending=[True, False])
        .with_row_index("rank", offset=1)
        .with_columns(pl.col("rank").cast(pl.Int64))
    )
    table = suggest_actions(
        table,
        false_discovery_rate=report.false_discovery_rate,
        relabel_probability=report.relabel_probability,
    )
    return _with_reasons(table, queries).select(
        name for name in ReviewList.columns() if name not in _OF_DECISIONS
    )


def _with_reasons(table: pl.DataFrame, queries: int) -> pl.DataFrame:
    """Say why a row is flagged, in what columns beside it do not say; texts of all are large."""
    has_classes = table["given_label_probability"].is_not_null().any()
    chance = pl.col("corrected_probability")
    without = pl.format(
        "Without this example the model would say {}, and give its label ({}) {}.",
        _short(pl.coalesce("other_label", "predicted_label")),
        _short(pl.col("given_label")),
        pl.when(chance < 0.01)  # noqa: PLR2004
        .then(pl.lit("< 1 %"))
        .otherwise(pl.format("{} %", (chance * 100).round(0).cast(pl.Int64))),
    )
    memorised = pl.format(
        "Without this example the model would give its label ({}) {} %.",
        _short(pl.col("given_label")),
        (chance * 100).round(0).cast(pl.Int64),
    )
    disagrees = pl.coalesce("other_label", "predicted_label") != pl.col("given_label")
    far_off = pl.lit("Without this example the model would miss it by more than most queries.")
    label = pl.when(disagrees).then(without).otherwise(memorised) if has_classes else far_off
    if table["given_label"].is_null().all():
        label = pl.lit(None, pl.String)
    effect = (
        pl.when(~pl.col("sign_stable"))
        .then(pl.lit("What removing it does to the queries is uncertain."))
        .when(pl.col("harm") > 0)
        .then(
            pl.format(
                "Removing it should help {} of {} queries (total {} +{}).",
                "queries_harmed",
                pl.lit(queries),
                pl.lit("margin" if has_classes else "gain"),
                _number(pl.col("harm"), digits=3),
            )
        )
        .otherwise(pl.lit("Removing it would hurt the queries."))
    )
    reason = pl.concat_str(label, effect, separator=" ", ignore_nulls=True)
    told = table.filter(is_flagged()).select("rank", reason=reason)
    found = table.join(told, on="rank", how="left", maintain_order="left")
    return found.with_columns(pl.col("reason").fill_null("It does not stand out."))


def spreadsheet_text(text: pl.Expr) -> pl.Expr:
    """Return text that a spreadsheet shows, and runs nothing of."""
    return quoted(text).str.replace_all(UNSEEN, "\ufffd")


def _short(label: pl.Expr) -> pl.Expr:
    """Return the beginning of a long label."""
    return (
        pl.when(label.str.len_chars() > _LABEL)
        .then(pl.concat_str(label.str.slice(0, _LABEL - 1), pl.lit("…")))
        .otherwise(label)
    )


def _number(values: pl.Expr, *, digits: int) -> pl.Expr:
    """Write a number with so many significant digits."""
    return values.round_sig_figs(digits).cast(pl.String)
