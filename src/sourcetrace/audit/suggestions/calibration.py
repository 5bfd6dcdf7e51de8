"""What people decided makes a probability of the suspicion."""

from typing import Any

import numpy as np
import polars as pl

FEWEST_DECISIONS = 20
"""With fewer decided examples, or fewer than `FEWEST_OF_A_KIND` right or wrong, nothing is said."""
FEWEST_OF_A_KIND = 3
_FEWEST_FOR_STEPS = 200
"""Decisions from which on the shape of the curve is left to them (isotonic regression)."""

_WRONG = ("relabel", "remove")
_RIGHT = ("keep",)


def error_probability(review_list: pl.DataFrame, decisions: pl.DataFrame) -> pl.Series:
    """Return the probability that a label is wrong, never falling as the suspicion rises.

    Platt's logistic curve on the suspicion's log odds, isotonic regression from 200 decisions on.
    It holds for examples like those that were decided: who decides the first suspects only learns
    little about the rest.

    Args:
        review_list: With example_id and suspicion.
        decisions: With example_id and decision: relabel and remove say wrong, keep right, and
            unsure nothing.

    Returns:
        `error_probability` of every row, all null where there are fewer than 20 decisions or
        fewer than 3 of a kind.
    """
    decided = _decided(review_list, decisions)
    wrong = decided["wrong"].to_numpy()
    kinds = min(int(wrong.sum()), int((~wrong).sum()))
    name = "error_probability"
    if len(wrong) < FEWEST_DECISIONS or kinds < FEWEST_OF_A_KIND:
        return pl.Series(name, [None] * review_list.height, dtype=pl.Float64)
    # Here: few audits have that many decisions, and the others would wait for the import.
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    known, wanted = _log_odds(decided["suspicion"]), _log_odds(review_list["suspicion"])
    if len(wrong) >= _FEWEST_FOR_STEPS:
        steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(known, wrong)
        return pl.Series(name, steps.predict(wanted))
    curve = LogisticRegression().fit(known[:, None], wrong)
    if curve.coef_[0, 0] < 0:
        return pl.Series(name, np.full(len(wanted), wrong.mean()))
    return pl.Series(name, curve.predict_proba(wanted[:, None])[:, 1])


def _decided(review_list: pl.DataFrame, decisions: pl.DataFrame) -> pl.DataFrame:
    known = decisions.filter(pl.col("decision").is_in([*_WRONG, *_RIGHT])).select(
        "example_id", wrong=pl.col("decision").is_in(_WRONG)
    )
    return review_list.join(known, on="example_id", how="inner", maintain_order="left")


def _log_odds(suspicion: pl.Series) -> np.ndarray[Any, Any]:
    values = suspicion.to_numpy().clip(1e-6, 1 - 1e-6)
    found: np.ndarray[Any, Any] = np.log(values / (1 - values))
    return found
