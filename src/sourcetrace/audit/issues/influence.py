"""Issues that the scores show, one query and one training example beside all others.

The helpful score of an example on a query is what the query would lose without it. A query is
supported where many examples share in that: their effective number is (Σ h)² / Σ h², n where n
examples help alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import scipy

from sourcetrace.audit.groups.groupings import slices
from sourcetrace.schemas.review import labels_are_numbers

_Array = np.ndarray[Any, Any]

_FEWEST_QUERIES = 5
_CHANCE = 0.05
_COLUMNS = {"example_id": pl.String, "score": pl.Float64, "related": pl.String}


@dataclass(frozen=True)
class Influence:
    """Sums over the scores.

    Attributes:
        of_examples: Σ over queries of |score|, [N].
        helpful, squares: By query: Σ over examples of helpful scores and of their squares, [Q].
    """

    of_examples: _Array
    helpful: _Array
    squares: _Array

    @classmethod
    def of(cls, scores: Iterable[tuple[pl.Series, _Array]], *, higher_is_better: bool) -> Self:
        """Add them up, block by block.

        Args:
            scores: Ids and scores [block, Q] of consecutive examples.
            higher_is_better: Whether a larger measurement is a better one.
        """
        own: list[_Array] = []
        by_query = np.zeros((2, 1))
        for _, block in scores:
            values = block.astype(np.float64)
            helpful = np.maximum(-values if higher_is_better else values, 0)
            by_query = by_query + np.stack([helpful.sum(0), np.square(helpful).sum(0)])
            own.append(np.abs(values).sum(1))
        return cls(np.concatenate([np.zeros(0), *own]), *by_query)


def dominating_examples(influence: Influence, review_list: pl.DataFrame) -> pl.DataFrame:
    """Return how far each example's influence is above the mean of the others of its class.

    The score is 1 - 1/k where it is k times that mean, and 0 below it. Without classes all
    examples are one.

    Args:
        influence: Of the same examples.
        review_list: `schemas.ReviewList`, in the scores' order.
    """
    label = pl.lit("") if labels_are_numbers(review_list) else pl.col("given_label")
    own = pl.col("own")
    others = (own.sum().over("label") - own) / (pl.len().over("label") - 1)
    score = pl.when(own > 0).then(1 - others / own).fill_nan(0)
    table = review_list.select("example_id", own=pl.Series(influence.of_examples), label=label)
    return table.select("example_id", score=score, related=pl.lit(None, dtype=pl.String))


def unsupported_queries(influence: Influence, query_table: pl.DataFrame) -> pl.DataFrame:
    """Return how much fewer helpers the queries of a slice have than the others, for each of them.

    The score is 1 minus the ratio of the medians, of slices whose queries have fewer than chance
    explains (rank sums, corrected for all slices); of several, a query has the worst.

    Args:
        influence: On these queries.
        query_table: `schemas.QueryTable`, whose labels and columns of few values make the slices.
    """
    helpers = np.square(influence.helpful) / np.maximum(influence.squares, np.finfo(float).tiny)
    found = []
    for names in slices(query_table.drop("example_id")):
        for name in names.unique().sort():
            inside = (names == name).to_numpy()
            if min(inside.sum(), (~inside).sum()) >= _FEWEST_QUERIES:
                less = scipy.stats.mannwhitneyu(
                    helpers[inside], helpers[~inside], alternative="less"
                )
                score = 1 - np.median(helpers[inside]) / np.median(helpers[~inside])
                found.append((name, inside, score, less.pvalue))
    corrected = scipy.stats.false_discovery_control([one[-1] for one in found]) if found else []
    ids = query_table["example_id"]
    tables = [
        pl.DataFrame({"example_id": ids.filter(pl.Series(inside))}).with_columns(
            score=pl.lit(float(score)), related=pl.lit(name)
        )
        for (name, inside, score, _), chance in zip(found, corrected, strict=True)
        if chance <= _CHANCE
    ]
    worst = pl.concat([pl.DataFrame(schema=_COLUMNS), *tables])
    return worst.sort("score", "related", descending=[True, False]).unique(
        "example_id", keep="first", maintain_order=True
    )
