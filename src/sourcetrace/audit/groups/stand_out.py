"""Which groups hold more suspects than chance would put there, and what they do to the queries.

Were the S suspects of N examples spread at random, k or more of them would fall to a group of n
with the tail of the hypergeometric distribution. Of a pair of labels, a → b, that would ask too
little, because a label that the model does not believe makes most suspects. It is set against
labels exchanged at random: a comes with its share π_a of the labels, and becomes b with
ρ_b / (1 - ρ_a), ρ the shares of the predictions; k or more of all such suspects make the pair with
the tail of the binomial distribution. The p-values of all groups looked at are corrected together,
so that a share `_FALSE` of those shown stands there by chance (Benjamini and Hochberg 1995).

A group's harm is a sum over its members, suspects or not, so that no choice flatters it. Its error
is not the members': they share queries and checkpoints. The spread over the queries is of the
group's own scores, summed by query; where these are not kept, it is taken as that over the
checkpoints. That is known by example alone, and added up as if all moved together, which is the
most that it can be.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy

from sourcetrace.audit.groups.groupings import groupings
from sourcetrace.schemas.groups import GroupSuspects, SuspectGroups
from sourcetrace.schemas.review import in_order_of, is_suspect
from sourcetrace.schemas.table import beside

_Array = np.ndarray[Any, Any]

_FALSE = 0.05
_FEWEST = 2
"""Suspects of a group; one alone is on the list."""

_NAMED = 3


def suspect_groups(
    train_table: pl.DataFrame,
    review_list: pl.DataFrame,
    query_influence: pl.LazyFrame,
    clusters: pl.Series,
    scores: Iterable[tuple[pl.Series, _Array]],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the groups that stand out and their suspects; none if no suspect's sign is stable.

    Args:
        train_table: `schemas.TrainTable`, of N examples.
        review_list: `schemas.ReviewList`.
        query_influence: `schemas.QueryInfluence`.
        clusters: The cluster of near-duplicates of every example; null where it has none.
        scores: Ids and scores [block, Q] of consecutive examples, in the training table's order;
            nothing where they are not kept.

    Returns:
        `schemas.SuspectGroups` and `schemas.GroupSuspects`.
    """
    errors = query_influence.lazy().select("example_id", "^harm_error_.*$").collect()
    listed = beside(in_order_of(train_table, review_list), errors)
    listed = listed.with_columns(pl.col("^harm_error_.*$").fill_null(0), suspect=is_suspect())
    if not (listed["suspect"] & listed["sign_stable"]).any():
        return SuspectGroups.frame(), GroupSuspects.frame()
    # A million texts are large; most are the same few.
    looked_at = [
        (kind, names.cast(pl.Categorical))
        for kind, names in (*groupings(train_table, listed), ("near_duplicates", clusters))
    ]
    found = _beyond_chance(listed, looked_at)
    if found.is_empty():
        return SuspectGroups.frame(), GroupSuspects.frame()
    found = found.with_row_index("number")
    members = pl.concat(
        pl.DataFrame({"name": looked_at[place][1]})
        .with_row_index("place")
        .join(groups.select(pl.col("name").cast(pl.Categorical), "number"), on="name")
        .select("number", "place")
        for (place,), groups in found.group_by("grouping", maintain_order=True)
    )
    return _described(found, listed, members, scores)


def _beyond_chance(
    listed: pl.DataFrame, looked_at: Sequence[tuple[str, pl.Series]]
) -> pl.DataFrame:
    """Return the groups that stand out: number of the grouping, kind, name, counts and p-value."""
    counted = []
    unseen = 0
    for place, (kind, names) in enumerate(looked_at):
        groups = _counts(listed, names)
        if kind == "label_pair":
            labels = listed["given_label"].n_unique()
            unseen += max(0, labels * (labels - 1) - groups.height)
            groups = _pairs_by_chance(groups, listed)
        else:
            suspects, examples = int(listed["suspect"].sum()), groups["examples"].to_numpy()
            tail = scipy.stats.hypergeom.sf(
                groups["suspects"] - 1, listed.height, suspects, examples
            )
            groups = _by_chance(groups, examples * suspects / listed.height, tail)
        counted.append(groups.with_columns(grouping=pl.lit(place), kind=pl.lit(kind)))
    table = pl.concat(counted)
    # A pair that nobody has was looked at as well; of many labels there are too many to hold.
    corrected = scipy.stats.false_discovery_control(table["p_value"]) * (
        1 + unseen / max(1, table.height)
    )
    return table.with_columns(p_value=corrected).filter(
        pl.col("p_value") <= _FALSE, pl.col("suspects") >= _FEWEST
    )


def _counts(listed: pl.DataFrame, names: pl.Series) -> pl.DataFrame:
    return (
        listed.select("given_label", "predicted_label", "suspect", name=names)
        .filter(pl.col("name").is_not_null())
        .group_by("name", maintain_order=True)
        .agg(
            pl.col("given_label", "predicted_label").first(),
            examples=pl.len().cast(pl.Int64),
            suspects=pl.col("suspect").sum().cast(pl.Int64),
        )
    )


def _by_chance(groups: pl.DataFrame, expected: _Array, tail: _Array) -> pl.DataFrame:
    """Return groups with the suspects that chance would put there, and its tail beyond k - 1."""
    return groups.select(
        pl.col("name").cast(pl.String),
        "examples",
        "suspects",
        expected=pl.Series(expected, dtype=pl.Float64),
        # Rounding leaves some a bit above 1.
        p_value=pl.Series(tail, dtype=pl.Float64).clip(0, 1),
    )


def _pairs_by_chance(groups: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """Set label pairs against labels exchanged at random."""
    given, predicted = (
        dict(listed[name].drop_nulls().value_counts(normalize=True).iter_rows())
        for name in ("given_label", "predicted_label")
    )
    pairs = groups.select("given_label", "predicted_label").iter_rows()
    share = np.array([given[a] * predicted[b] / (1 - predicted.get(a, 0.0)) for a, b in pairs])
    exchanged = int(groups["suspects"].sum())
    tail = scipy.stats.binom.sf(groups["suspects"] - 1, exchanged, share)
    return _by_chance(groups, exchanged * share, tail)


def _described(
    found: pl.DataFrame,
    listed: pl.DataFrame,
    belongs: pl.DataFrame,
    scores: Iterable[tuple[pl.Series, _Array]],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables of the groups found.

    Args:
        found: As `_beyond_chance` returns it, and their number.
        listed: The review list, in the training table's order.
        belongs: number (of a group) and place (of a member in that order).
        scores: As of `suspect_groups`.
    """
    number, places = belongs["number"], belongs["place"]
    shape = (found.height, listed.height)
    members = scipy.sparse.csc_array((np.ones(belongs.height), (number, places)), shape=shape)
    queries, start = np.zeros((found.height, 1)), 0
    for names, block in scores:
        queries = queries + members[:, start : start + len(names)] @ block.astype(np.float64)
        start += len(names)
    if (count := queries.shape[1]) > 1:
        spread = np.sqrt(count) * queries.std(1, ddof=1)
    else:
        spread = members @ listed["harm_error_queries"].to_numpy()
    error = np.hypot(spread, members @ listed["harm_error_checkpoints"].to_numpy())
    order = listed.select("example_id", "harm", "suspect")
    within = (
        order[places]
        .with_columns(number=number)
        .sort(["harm", "example_id"], descending=[True, False])
    )
    groups = found.with_columns(harm=members @ listed["harm"].to_numpy(), harm_error=error).sort(
        ["harm", "kind", "name"], descending=[True, False, False]
    )
    groups = groups.with_columns(group_id=pl.int_range(1, groups.height + 1).cast(pl.String))
    named = within.group_by("number").agg(members=pl.col("example_id").head(_NAMED))
    suspects = within.filter("suspect").join(groups.select("number", "group_id"), on="number")
    return (
        groups.join(named, on="number", maintain_order="left").select(
            list(SuspectGroups.columns())
        ),
        suspects.select(list(GroupSuspects.columns())).sort("group_id", maintain_order=True),
    )
