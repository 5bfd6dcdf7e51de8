"""How many planted errors each ranking puts first: ours, and the plain ones beside it."""

from typing import Any

import polars as pl

_RANKINGS = {
    "Harm to the queries (the review list)": ("harm", True),
    "Influence on the queries' summed loss": ("total_query_loss_influence", False),
    "Self-influence": ("self_influence", True),
    "Plain loss": ("loss", True),
}
"""Shown name -> column of the review list, and whether large values are suspect."""

_CURVE_POINTS = 60


def compare_with_planted(
    review_list: pl.DataFrame, planted_label_errors: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Return a row a ranking, its recall curve, and the metrics for MLflow.

    The top is as long as there are planted errors, so that a perfect ranking finds all.
    """
    from sklearn.metrics import average_precision_score

    planted = planted_label_errors["example_id"]
    top = len(planted)
    rankings, curves = [], []
    for name, (column, descending) in _RANKINGS.items():
        ordered = review_list.sort([column, "example_id"], descending=[descending, False])
        hits = ordered["example_id"].is_in(planted.to_list())
        scores = ordered[column] if descending else -ordered[column]
        found = int(hits.head(top).sum())
        rankings.append(
            {
                "ranking": name,
                "found_in_top": found,
                "recall_in_top": found / top if top else 0.0,
                "average_precision": float(average_precision_score(hits, scores)) if top else 0.0,
            }
        )
        inspected = sorted({round(len(hits) * i / _CURVE_POINTS) for i in range(_CURVE_POINTS + 1)})
        curves += [
            {
                "ranking": name,
                "inspected_share": count / len(hits),
                "found_share": int(hits.head(count).sum()) / max(top, 1),
            }
            for count in inspected
        ]
    metrics = {}
    for (column, _), row in zip(_RANKINGS.values(), rankings, strict=True):
        for measure in ("recall_in_top", "average_precision"):
            metrics[f"{column}_{measure}"] = {"value": row[measure], "step": 0}
    return pl.DataFrame(rankings), pl.DataFrame(curves), metrics


def extend_page(
    page: str,
    rankings: pl.DataFrame,
    curve: pl.DataFrame,
    planted_label_errors: pl.DataFrame,
) -> str:
    """Return the page with the comparison in its ground-truth slot."""
    from sourcetrace.reporting.page import GroundTruthEvaluation, insert_ground_truth

    count = planted_label_errors.height
    return insert_ground_truth(page, GroundTruthEvaluation(count, count, rankings, curve))
