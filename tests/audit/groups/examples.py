"""Audits of made-up examples, for the tests of groups and issues."""

import numpy as np
import polars as pl

from sourcetrace.schemas import ReviewList

QUERIES = 7


def audit(labels, predicted, harm, *, share=0.1, checkpoint_error=0.1, seed=0, **columns):
    """Return the arguments of `suspect_groups` but the clusters; the worst `share` are suspects."""
    count, rng = len(labels), np.random.default_rng(seed)
    harm = np.asarray(harm, dtype=float)
    ids = [f"example-{i:04d}" for i in range(count)]
    # Each example's harm, spread unevenly over the queries, and over much the same ones.
    weights = 0.7 * rng.dirichlet(np.ones(QUERIES)) + 0.3 * rng.dirichlet(np.ones(QUERIES), count)
    rank = np.argsort(np.argsort(-harm, kind="stable")) + 1
    listed = pl.DataFrame(
        {
            "rank": rank,
            "example_id": ids,
            "index": range(count),
            "stage": "train",
            "given_label": list(map(str, labels)),
            "predicted_label": list(map(str, predicted)),
            "given_label_probability": 0.5,
            "loss": 1.0,
            "self_influence": 1.0,
            "self_influence_rank": 1,
            "harm": harm,
            "harm_error": 0.1,
            "sign_stable": True,
            "total_query_loss_influence": 0.0,
            "queries_harmed": 1,
            "suspicion": 0.5,
            "suggested_action": np.where(rank <= share * count, "relabel", "keep").tolist(),
            "decision": pl.Series([None] * count, dtype=pl.String),
            "reason": "",
        }
    )
    return {
        "train_table": pl.DataFrame(
            {"example_id": ids, "label": list(map(str, labels)), "stage": [["train"]] * count}
            | columns
        ),
        "review_list": listed.sort("rank").select(
            [name for name in ReviewList.columns() if name in listed.columns]
        ),
        "query_influence": pl.DataFrame(
            {
                "example_id": ids,
                "harm_error_checkpoints": [checkpoint_error] * count,
                "harm_error_queries": np.sqrt(QUERIES) * (harm[:, None] * weights).std(1, ddof=1),
            }
        ),
        "scores": [
            (pl.Series(ids[start : start + 32]), (harm[:, None] * weights)[start : start + 32])
            for start in range(0, count, 32)
        ],
    }


def alone(count):
    """Return clusters of nobody."""
    return pl.Series([None] * count, dtype=pl.String)
