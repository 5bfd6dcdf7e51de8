"""Examples that are the same, or nearly: by their content's digest, then by their sketches.

Sketches are centred and compared by their cosine. Not all with all: of equal ones the first stands
for all, and an example is compared with those that share one of its two nearest pivots, examples
drawn at random, which leaves out few neighbours as close as these. Where very many share a pivot,
they are put in order along the number in which they differ most, and each is compared with those
around it: `_MOST` at most, as there are of pivots, so that the work grows with the examples and not
with their square.
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

_MOST = 4096
"""Examples that one is compared with, a pivot; and pivots."""

_ROUNDING = 2**-10
"""What is shorter than this beside a sketch is half precision's rounding of it."""

_PAIR = {"first": pl.String, "second": pl.String, "similarity": pl.Float64}


def near_pairs(
    example_digests: pl.LazyFrame, content_sketches: pl.LazyFrame, *, similarity: float
) -> pl.DataFrame:
    """Return pairs of training examples that are near-duplicates, each in both orders.

    Args:
        example_digests: `schemas.ExampleDigests`.
        content_sketches: `schemas.ContentSketches`.
        similarity: The least cosine; that of equal contents is 1.

    Returns:
        first, second (ids) and similarity. Of equal contents, or equal sketches, every example with
        the first.
    """
    same = _equal(example_digests, "input_digest")
    alone = _of_side(content_sketches, "training")
    centre = _centre(alone)
    # What is the same goes first: each step copies the sketches that are left.
    alone = alone.join(same, left_on="example_id", right_on="second", how="anti")
    alone = _centred(alone, centre)
    seen = _equal(alone, "sketch")
    alone = alone.join(seen, left_on="example_id", right_on="second", how="anti")
    names = alone["example_id"]
    found = [
        _pairs(names[rows], names[others], values)
        for rows, others, values in _neighbours(alone["sketch"].to_numpy(), similarity)
    ]
    pairs = pl.concat([same, seen, *found])
    both = pl.concat([pairs, pairs.select(first="second", second="first", similarity="similarity")])
    return both.unique(["first", "second"], maintain_order=True)


def near_queries(content_sketches: pl.LazyFrame, *, similarity: float) -> pl.DataFrame:
    """Return, for every training example near to a query, the nearest one.

    Args:
        content_sketches: `schemas.ContentSketches`.
        similarity: The least cosine.

    Returns:
        first (training example), second (query) and similarity.
    """
    training, queries = (_of_side(content_sketches, side) for side in ("training", "query"))
    centre = _centre(training)
    queries = _centred(queries, centre)
    names, others = queries["example_id"], queries["sketch"].to_numpy()
    tables = [pl.DataFrame(schema=_PAIR)]
    for rows in training.iter_slices(_ROWS) if queries.height else ():
        part = _centred(rows, centre)
        cosines = part["sketch"].to_numpy() @ others.T
        nearest, best = cosines.argmax(1), cosines.max(1)
        near = np.flatnonzero(best >= similarity)
        tables.append(_pairs(part["example_id"][near], names[nearest[near]], best[near]))
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


def _equal(table: pl.LazyFrame | pl.DataFrame, content: str) -> pl.DataFrame:
    """Return every example whose content is known with the first of that content, if another."""
    known = table.lazy().select("example_id", content).drop_nulls(content)
    # Groups of a million contents are large; most have a hash of their own.
    alike = known.filter(pl.col(content).hash().is_duplicated())
    leaders = alike.with_columns(first=pl.col("example_id").first().over(content))
    others = leaders.filter(pl.col("first") != pl.col("example_id"))
    return others.select("first", second="example_id", similarity=pl.lit(1.0)).collect()


def _of_side(content_sketches: pl.LazyFrame, side: str) -> pl.DataFrame:
    return content_sketches.lazy().filter(side=side).drop("side").collect()


def _centre(training: pl.DataFrame) -> _Array:
    total: _Array = training["sketch"].to_numpy().sum(0, dtype=np.float64)
    return (total / max(1, training.height)).astype(np.float32)


def _centred(side: pl.DataFrame, centre: _Array) -> pl.DataFrame:
    """Return ids and sketches less a centre, of length 1.

    Those that are the centre, as all are of a model that sees nothing, are left out.
    """
    sketches = side["sketch"].to_numpy()
    vectors = sketches - centre
    lengths, whole = (np.sqrt(np.einsum("nd,nd->n", one, one)) for one in (vectors, sketches))
    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    units = pl.Series(vectors, dtype=pl.Array(pl.Float32, len(centre)))
    return side.select("example_id", sketch=units).filter(pl.Series(lengths > _ROUNDING * whole))


def _neighbours(vectors: _Array, similarity: float) -> Iterator[tuple[_Array, _Array, _Array]]:
    """Yield numbers of vectors, of neighbours with at least this cosine, and the cosines.

    Args:
        vectors: Of length 1, [N, D].
        similarity: As of `near_pairs`.
    """
    if not len(vectors):
        return
    random = np.random.default_rng(0)
    count = min(1 + len(vectors) // _BUCKET, _MOST)
    pivots = vectors[random.choice(len(vectors), count, replace=False)]
    places = np.arange(len(vectors))
    near = [_two_nearest(vectors[rows], pivots) for rows in _parts(places)]
    buckets = np.concatenate([pair[:, column] for column in (0, 1) for pair in near])
    order = np.argsort(buckets, kind="stable")
    bounds = np.searchsorted(buckets[order], np.arange(len(pivots) + 1))
    for start, stop in pairwise(bounds):
        for others, own in _compared(np.unique(order[start:stop] % len(vectors)), vectors):
            rows = others[own]
            cosines = vectors[rows] @ vectors[others].T
            cosines[np.arange(len(rows)), np.arange(own.start, own.stop)] = -1
            close = np.flatnonzero(cosines.max(1) >= similarity)
            kept = min(_NEAREST, len(others))
            best = np.argpartition(-cosines[close], kept - 1, axis=1)[:, :kept]
            values = np.take_along_axis(cosines[close], best, axis=1)
            row, column = np.nonzero(values >= similarity)
            yield rows[close[row]], others[best[row, column]], values[row, column]


def _compared(members: _Array, vectors: _Array) -> Iterator[tuple[_Array, slice]]:
    """Yield parts of a pivot's members and which of them are compared with all of the part."""
    if len(members) > _MOST:
        widest = vectors[members].std(0).argmax()
        members = members[np.argsort(vectors[members, widest], kind="stable")]
    for start in range(0, len(members), _ROWS):
        first = max(0, min(start - (_MOST - _ROWS) // 2, len(members) - _MOST))
        stop = min(start + _ROWS, len(members))
        yield members[first : first + _MOST], slice(start - first, stop - first)


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
