"""Examples that are the same, or nearly: by their content's digest, then by their sketches.

Sketches are centred and compared by their cosine. Not all with all: an example is compared with
those that share one of its two nearest pivots, examples drawn at random, which leaves out few
neighbours as close as these and grows far slower than the square of the examples.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_Array = np.ndarray[Any, Any]

_NEAREST = 4
"""Neighbours of an example that are kept."""

_ROWS = 1024
_BUCKET = 1024
"""Rows of a product, and examples a pivot on average."""

_PAIR = {"first": pl.String, "second": pl.String, "similarity": pl.Float64}


def near_pairs(
    example_digests: pl.DataFrame, content_sketches: pl.DataFrame, *, similarity: float
) -> pl.DataFrame:
    """Return pairs of training examples that are near-duplicates, each in both orders.

    Args:
        example_digests: `schemas.ExampleDigests`.
        content_sketches: `schemas.ContentSketches`.
        similarity: The least cosine; that of equal contents is 1.

    Returns:
        first, second (ids) and similarity. Of equal contents, every example with the first.
    """
    content = pl.col("input_digest")
    first = pl.when(content.is_not_null()).then(pl.col("example_id").first().over(content))
    leaders = example_digests.select("example_id", first=first)
    same = leaders.filter(pl.col("first") != pl.col("example_id"))
    same = same.select("first", second="example_id", similarity=pl.lit(1.0))
    training, _ = _vectors(content_sketches)
    alone = training.filter(~pl.col("example_id").is_in(same["second"].implode()))
    names = alone["example_id"]
    found = [
        _pairs(names[rows], names[others], values)
        for rows, others, values in _neighbours(alone["sketch"].to_numpy(), similarity)
    ]
    pairs = pl.concat([same, *found])
    both = pl.concat([pairs, pairs.select(first="second", second="first", similarity="similarity")])
    return both.unique(["first", "second"], maintain_order=True)


def near_queries(content_sketches: pl.DataFrame, *, similarity: float) -> pl.DataFrame:
    """Return, for every training example near to a query, the nearest one.

    Args:
        content_sketches: `schemas.ContentSketches`.
        similarity: The least cosine.

    Returns:
        first (training example), second (query) and similarity.
    """
    training, queries = _vectors(content_sketches)
    ids, names, others = training["example_id"], queries["example_id"], queries["sketch"].to_numpy()
    tables = [pl.DataFrame(schema=_PAIR)]
    for start in range(0, training.height if queries.height else 0, _ROWS):
        cosines = training["sketch"][start : start + _ROWS].to_numpy() @ others.T
        nearest, best = cosines.argmax(1), cosines.max(1)
        rows = np.flatnonzero(best >= similarity)
        tables.append(_pairs(ids[start : start + _ROWS][rows], names[nearest[rows]], best[rows]))
    return pl.concat(tables)


def cluster_of(pairs: pl.DataFrame, ids: pl.Series) -> pl.Series:
    """Return the cluster of every example, named for its first member; null where it is alone.

    Args:
        pairs: As `near_pairs` returns them.
        ids: Of all examples.
    """
    number = pl.DataFrame({"id": ids}).with_row_index("number")
    edges = [
        pairs.join(number, left_on=name, right_on="id", how="left", maintain_order="left")["number"]
        for name in ("first", "second")
    ]
    size = (len(ids), len(ids))
    graph = coo_array((np.ones(pairs.height, bool), (edges[0], edges[1])), shape=size)
    _, labels = connected_components(graph, directed=False)
    together = pl.DataFrame({"id": ids, "label": labels})
    whole = pl.col("id").first().over("label")
    return together.select(pl.when(pl.len().over("label") > 1).then(whole).alias("cluster"))[
        "cluster"
    ]


def _vectors(content_sketches: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return training examples and queries, sketches centred on the training's, of length 1."""
    training, queries = (content_sketches.filter(side=side) for side in ("training", "query"))
    if training.is_empty():
        return training, queries
    centre = training["sketch"].to_numpy().mean(0)

    def centred(side: pl.DataFrame) -> pl.DataFrame:
        return side.with_columns(sketch=_unit(side["sketch"].to_numpy() - centre))

    return centred(training), centred(queries)


def _unit(vectors: _Array) -> pl.Series:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return pl.Series(scaled, dtype=pl.Array(pl.Float32, vectors.shape[1]))


def _neighbours(vectors: _Array, similarity: float) -> Iterator[tuple[_Array, _Array, _Array]]:
    """Yield numbers of vectors, of neighbours with at least this cosine, and the cosines.

    Args:
        vectors: Of length 1, [N, D].
        similarity: As of `near_pairs`.
    """
    if not len(vectors):
        return
    random = np.random.default_rng(0)
    pivots = vectors[random.choice(len(vectors), 1 + len(vectors) // _BUCKET, replace=False)]
    places = np.arange(len(vectors))
    near = [_two_nearest(vectors[rows], pivots) for rows in _parts(places)]
    buckets = np.concatenate([pair[:, column] for column in (0, 1) for pair in near])
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(len(pivots) + 1))
    for start, stop in pairwise(bounds):
        members = np.unique(order[start:stop] % len(vectors))
        others = vectors[members]
        for rows in _parts(members):
            cosines = vectors[rows] @ others.T
            cosines[rows[:, None] == members] = -1
            close = np.flatnonzero(cosines.max(1) >= similarity)
            kept = min(_NEAREST, len(members))
            best = np.argpartition(-cosines[close], kept - 1, axis=1)[:, :kept]
            values = np.take_along_axis(cosines[close], best, axis=1)
            row, column = np.nonzero(values >= similarity)
            yield rows[close[row]], members[best[row, column]], values[row, column]


def _two_nearest(vectors: _Array, pivots: _Array) -> _Array:
    """Return each vector's two nearest pivots, [n, 2]; of one pivot, it twice."""
    cosines = vectors @ pivots.T
    first = cosines.argmax(1)
    if len(pivots) > 1:
        cosines[np.arange(len(vectors)), first] = -2
    return np.stack([first, cosines.argmax(1)], axis=1)


def _parts(numbers: _Array) -> Iterator[_Array]:
    for start in range(0, len(numbers), _ROWS):
        yield numbers[start : start + _ROWS]


def _pairs(first: pl.Series, second: pl.Series, similarity: _Array) -> pl.DataFrame:
    return pl.DataFrame({"first": first, "second": second, "similarity": similarity}, schema=_PAIR)
