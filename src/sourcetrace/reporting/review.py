"""The review list: every training example, the one that harms the queries most first.

The order is harm: how much better the queries' measurement, summed, is predicted to get when
the example is removed. Every query has its say. The summed loss would hear mostly the few
that the model gets badly wrong; on the demo it finds fewer of the planted errors. It,
self-influence and plain loss stand beside harm; they do not decide.
"""

import polars as pl

from sourcetrace.formats import UNSEEN
from sourcetrace.parameters import ReportParameters
from sourcetrace.schemas import ReviewList
from sourcetrace.schemas.review import labels_are_numbers, rounded_labels

_LABEL = 80


def build_review_list(
    *,
    train_table: pl.DataFrame,
    final_signals: pl.DataFrame,
    query_influence: pl.DataFrame,
    self_influence: pl.DataFrame,
    queries: int,
    report: ReportParameters,
) -> pl.DataFrame:
    """Join what is known of each example, rank it and suggest an action.

    Args:
        train_table: Ids, given labels, stages and index.
        final_signals: Signals at the final checkpoint, one row an example.
        query_influence: Influence on all queries together.
        self_influence: Influence on the example's own loss.
        queries: Number of queries; influence on the mean loss times it is on the sum.
        report: Thresholds.

    Returns:
        The table `schemas.ReviewList` describes, without what people decided.
    """
    table = train_table.select(
        "example_id", "index", pl.col("stage").list.join(", "), given_label="label"
    )
    for other in (
        final_signals.drop("checkpoint_id", strict=False),
        query_influence.drop("method", strict=False),
        self_influence,
    ):
        table = table.join(other, on="example_id", how="left", validate="1:1")
    table = (
        table.with_columns(
            total_query_loss_influence=pl.col("mean_query_loss_influence") * queries,
            self_influence_rank=pl.col("self_influence")
            .rank("ordinal", descending=True)
            .over(
                # A regression's target is no class.
                pl.when(pl.col("given_label_probability").is_not_null()).then("given_label")
            )
            .cast(pl.Int64),
        )
        # Ids break ties, so that the same scores give the same list.
        .sort(["harm", "example_id"], descending=[True, False])
        .with_row_index("rank", offset=1)
        .with_columns(pl.col("rank").cast(pl.Int64))
    )
    return _suggest(table, queries, report).select(
        name for name in ReviewList.columns() if name not in {"content_digest", "decision"}
    )


def _suggest(table: pl.DataFrame, queries: int, report: ReportParameters) -> pl.DataFrame:
    worth_a_look = pl.col("rank") <= round(report.check_share * table.height)
    harmful = worth_a_look & (pl.col("harm") > 0)
    stable = pl.col("sign_stable")
    disbelieved = (
        pl.col("given_label_probability").is_not_null()
        & (pl.col("given_label_probability") < report.relabel_probability)
        & (pl.col("predicted_label") != pl.col("given_label"))
    )
    harm = pl.format(
        "Removing it should help {} of {} queries (in all +{}).",
        "queries_harmed",
        pl.lit(queries),
        _number(pl.col("harm"), digits=3),
    )
    wrong = pl.format(
        "The model says {}, and gives the label {} a probability of {}.",
        _short(pl.col("predicted_label")),
        _short(pl.col("given_label")),
        pl.when(pl.col("given_label_probability") < 0.001)  # noqa: PLR2004
        .then(pl.lit("< 0.1 %"))
        .otherwise(pl.format("{} %", (pl.col("given_label_probability") * 100).round(1))),
    )
    uncertain = pl.format(
        "Its harm, {} ± {}, has no stable sign: too uncertain to act on without a look.",
        _number(pl.col("harm"), digits=3),
        _number(pl.col("harm_error"), digits=2),
    )
    effect = pl.when(stable).then(harm).otherwise(uncertain)
    if labels_are_numbers(table):
        given = rounded_labels(table)["given_label"]
        values = pl.format("Given {}, predicted {}. ", pl.lit(given), "predicted_label")
        effect = pl.concat_str(values.fill_null(""), effect)
    action = (
        pl.when(harmful & disbelieved & stable)
        .then(pl.lit("relabel"))
        # An uncertain harm is still a reason to look: most such suspects of the demo are errors.
        .when(harmful)
        .then(pl.lit("review"))
        .otherwise(pl.lit("keep"))
    )
    reason = (
        pl.when(harmful & disbelieved)
        .then(pl.concat_str(wrong, effect, separator=" "))
        .when(harmful)
        .then(effect)
        .when(pl.col("harm") > 0)
        .then(pl.lit("Its harm is small beside that of the first on the list."))
        .otherwise(pl.lit("The queries would not gain from its removal."))
    )
    by_harm = (pl.col("harm").rank() - 1) / max(1, table.height - 1)
    return table.with_columns(
        suspicion=pl.coalesce(1 - pl.col("given_label_probability"), by_harm),
        error_probability=pl.lit(None, pl.Float64),
        suggested_action=action,
        suggested_label=pl.when(action == "relabel").then("predicted_label"),
        reason=reason,
    )


def spreadsheet_text(text: pl.Expr) -> pl.Expr:
    """Return text that a spreadsheet shows: a quote before what it would run as a formula.

    Programs differ in what they skip before the sign: spaces, control characters, and the sign's
    full width counts as the sign.
    """
    quoted = text.str.replace(r"^([\t\r]|[\s\p{C}\p{Z}]*[=+\-@＝＋－＠])", "'${1}")
    return quoted.str.replace_all(UNSEEN, "\ufffd")


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
