"""Issues that the scores show, one query and one training example beside all others.

The helpful score of an example on a query is what the query would lose without it. A query is
supported where many examples share in that (`schemas.QueryHelpers`).
"""

import numpy as np
import polars as pl
import scipy

from sourcetrace.audit.groups.groupings import slices
from sourcetrace.schemas.review import labels_are_numbers
from sourcetrace.schemas.table import beside

_FEWEST_QUERIES = 5
_CHANCE = 0.05
_COLUMNS = {"example_id": pl.String, "score": pl.Float64, "related": pl.String}


def dominating_examples(query_influence: pl.LazyFrame, review_list: pl.DataFrame) -> pl.DataFrame:
    """Return how far each example's influence is above the mean of the others of its class.

    The score is 1 - 1/k where it is k times that mean, and 0 below it. Without classes all
    examples are one.

    Args:
        query_influence: `schemas.QueryInfluence`; what it does not have, has none.
        review_list: `schemas.ReviewList`, best in the same order.
    """
    label = pl.lit("") if labels_are_numbers(review_list) else pl.col("given_label")
    own = pl.col("own")
    others = (own.sum().over("label") - own) / (pl.len().over("label") - 1)
    score = pl.when(own > 0).then(1 - others / own).fill_nan(0)
    sizes = query_influence.lazy().select("example_id", own="absolute_score").collect()
    table = beside(review_list.select("example_id", label=label), sizes)
    table = table.with_columns(own.fill_null(0))
    return table.select("example_id", score=score, related=pl.lit(None, dtype=pl.String))


def unsupported_queries(query_helpers: pl.DataFrame, query_table: pl.DataFrame) -> pl.DataFrame:
    """Return how much fewer helpers the queries of a slice have than the others, for each of them.

    The score is 1 minus the ratio of the medians, of slices whose queries have fewer than chance
    explains (rank sums, corrected for all slices); of several, a query has the worst.

    Args:
        query_helpers: `schemas.QueryHelpers`, of these queries.
        query_table: `schemas.QueryTable`, whose labels and columns of few values make the slices.
    """
    helpers = query_helpers["helpers"].to_numpy()
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
