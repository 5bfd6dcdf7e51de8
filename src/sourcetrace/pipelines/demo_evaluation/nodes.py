"""How many planted errors each ranking puts first: ours, and the plain ones beside it."""

from typing import Any

import polars as pl
from kedro.pipeline import Pipeline
from sklearn.metrics import average_precision_score

from sourcetrace.pipelines.shared.metrics import logged
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.records import GroundTruth, Ranking

_RANKINGS = {
    "Suspicion (the review list)": ("suspicion", True),
    "Harm to the queries": ("harm", True),
    "Influence on the queries' summed loss": ("total_query_loss_influence", False),
    "Self-influence": ("self_influence", True),
    "Plain loss": ("loss", True),
}
"""Shown name -> column of the review list, and whether large values are suspect."""

_CURVE_POINTS = 60


def compare_with_planted(
    audit_summary: dict[str, Any], review_list: pl.DataFrame, planted_label_errors: pl.DataFrame
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how well each ranking finds the planted errors, and the metrics for MLflow.

    The top is as long as there are planted errors, so that a perfect ranking finds all.
    """
    planted = planted_label_errors["example_id"]
    top, examples = len(planted), review_list.height
    inspected = sorted({round(examples * i / _CURVE_POINTS) for i in range(_CURVE_POINTS + 1)})
    rankings, metrics = [], {}
    for name, (column, descending) in _RANKINGS.items():
        ordered = review_list.sort([column, "example_id"], descending=[descending, False])
        hits = ordered["example_id"].is_in(planted.to_list())
        scores = ordered[column] if descending else -ordered[column]
        found = [0, *hits.cum_sum().to_list()]
        ranking = Ranking(
            name=name,
            found=found[min(top, examples)],
            average_precision=float(average_precision_score(hits, scores)) if top else 0.0,
            curve=tuple((count / examples, found[count] / max(top, 1)) for count in inspected),
        )
        rankings.append(ranking)
        metrics[f"{column}_recall_in_top"] = ranking.found / max(top, 1)
        metrics[f"{column}_average_precision"] = ranking.average_precision
    truth = GroundTruth(
        scores_digest=audit_summary["scores_digest"],
        planted=top,
        examples=examples,
        rankings=tuple(rankings),
    )
    return truth.model_dump(mode="json"), logged(metrics)


PIPELINE = Pipeline([step(compare_with_planted, ["ground_truth", "demo_metrics"])])
