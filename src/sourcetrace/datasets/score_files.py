"""The attribution scores read a file at a time, and a digest of them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import file_digest
from sourcetrace.reporting.queries.view import query_places
from sourcetrace.schemas.query_view import SIDES, QueryStrongest

_STRONGEST = {
    "query": pl.Int64,
    "side": pl.String,
    "rank": pl.Int64,
    "example_id": pl.String,
    "score": pl.Float64,
}


class ScoreFiles:
    """The files of `attribution_scores`, of which one at a time is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blocks(self) -> Iterator[tuple[pl.Series, "np.ndarray[Any, Any]"]]:
        """Yield the ids and the scores [block, Q] of consecutive training examples.

        Raises:
            InputError: If there are no scores yet, or not all are kept.
        """
        for table in self._tables():
            rows = table.select("example_id", stored_scores(table)).collect()
            yield rows["example_id"], rows["scores"].to_numpy()

    @property
    def are_kept(self) -> bool:
        """Whether there are scores, and not their digest alone."""
        return "scores" in next(self._tables()).collect_schema()

    def require(self) -> None:
        """Raise an InputError, before anything expensive, where the scores are not kept."""
        stored_scores(next(self._tables()))

    def sums_over(self, groups: pl.Series) -> "np.ndarray[Any, Any]":
        """Return the sum of the scores over each group of training examples, [groups, Q].

        The predicted change of the queries' measurements on its removal.

        Args:
            groups: A list of numbers each, increasing.
        """
        start, total = 0, 0.0
        numbers = [group.to_numpy() for group in groups]
        for _, scores in self.blocks():
            inside = np.zeros((len(numbers), len(scores)))
            for row, group in zip(inside, numbers, strict=True):
                first, last = np.searchsorted(group, (start, start + len(scores)))
                row[group[first:last] - start] = 1
            total = total + inside @ scores.astype(np.float64)
            start += len(scores)
        return np.asarray(total)

    def strongest(
        self, queries: Sequence[int], count: int, *, higher_is_better: bool
    ) -> pl.DataFrame:
        """Return `strongest_of` the scores for some queries, by their places among these."""
        own = ((ids, scores[:, list(queries)]) for ids, scores in self.blocks())
        return strongest_of(own, count, higher_is_better=higher_is_better)

    def digest(self) -> str:
        """Return a digest of the files: of ids, scores and how they are spread over files.

        Raises:
            InputError: If there are no scores yet.
        """
        return hashlib.sha256("".join(map(file_digest, self._files())).encode()).hexdigest()

    def digest_in(self, audit_summary: Mapping[str, Any]) -> str:
        """Return the digest that a summary names.

        Raises:
            InputError: If it is of other scores.
        """
        digest = self.digest()
        if audit_summary.get("scores_digest") != digest:
            raise InputError(
                "The page and the review list were written for other scores than the ones that are "
                "there now. Run `kedro run --pipelines cleaning_report` first."
            )
        return digest

    def _tables(self) -> Iterator[pl.LazyFrame]:
        for file in self._files():
            yield pl.scan_parquet(file, glob=False, hive_partitioning=False)

    def _files(self) -> list[Path]:
        files = sorted(self._folder.glob("part-*.parquet"))
        if not files:
            raise InputError(
                f"There are no attribution scores in {str(self._folder)!r} yet. Run "
                "`kedro run --pipelines audit` first."
            )
        return files


def score_columns(
    scores: "np.ndarray[Any, Any]", precision: Literal["float32", "float16"]
) -> list[pl.Series]:
    """Return the columns of `schemas.AttributionScores` that hold scores.

    Args:
        scores: [N, Q], float32.
        precision: In which they are kept.
    """
    width = scores.shape[1]
    if precision == "float32":
        return [pl.Series("scores", scores, dtype=pl.Array(pl.Float32, width))]
    # The largest becomes 2¹⁴ to 2¹⁵, so that what is far smaller is no zero.
    exponents = np.maximum(np.frexp(np.abs(scores).max(1, initial=0))[1] - 15, -126)
    halves = np.ldexp(scores, -exponents[:, None]).astype(np.float16)
    scale = np.ldexp(np.float32(1), exponents)
    return [
        pl.Series("scores", halves, dtype=pl.Array(pl.Float16, width)),
        pl.Series("scale", scale, dtype=pl.Float32),
    ]


def strongest_of(
    blocks: Iterable[tuple[pl.Series, "np.ndarray[Any, Any]"]],
    count: int,
    *,
    higher_is_better: bool,
) -> pl.DataFrame:
    """Return the strongest helpers and harmers of every query, of equal ones the first.

    Memory is that of a block and of what is returned.

    Args:
        blocks: Ids and scores [block, Q] of consecutive training examples.
        count: At most so many of each side; those that change nothing are none.
        higher_is_better: Whether a larger measurement is a better one.

    Returns:
        query (its place), side, rank, example_id and score, in this order.
    """
    better = 1 if higher_is_better else -1
    found = (_strongest(ids, better * scores.T, better, count) for ids, scores in blocks)
    return merge_strongest(found, count)


def merge_strongest(tables: Iterable[pl.DataFrame], count: int) -> pl.DataFrame:
    """Return the strongest of tables, each the strongest of consecutive training examples."""
    best = pl.DataFrame(schema=_STRONGEST)
    order = ["query", pl.col("side") == SIDES[1], pl.col("score").abs()]
    for table in tables:
        best = pl.concat([best, table])
        best = best.sort(order, descending=[False, False, True], maintain_order=True)
        best = best.with_columns(rank=pl.int_range(1, pl.len() + 1).over("query", "side"))
        best = best.filter(pl.col("rank") <= count)
    return best


def listed_strongest(
    query_strongest: pl.DataFrame,
    files: Callable[[], ScoreFiles],
    queries: Sequence[str],
    ids: Sequence[str],
    count: int,
    *,
    higher_is_better: bool,
) -> pl.DataFrame:
    """Return `schemas.QueryStrongest` of some queries of all `ids`, from a list that has as many.

    Where more are wanted the scores are read.

    Raises:
        InputError: If a query is unknown, or these scores are not kept.
    """
    names = list(dict.fromkeys(queries))
    places = query_places(names, ids)
    if count <= (query_strongest["rank"].max() or 0):  # type: ignore[operator]
        return query_strongest.filter(pl.col("query_id").is_in(names), pl.col("rank") <= count)
    found = files().strongest(places, count, higher_is_better=higher_is_better)
    asked = pl.Series("query_id", names, dtype=pl.String).gather(found["query"])
    return found.with_columns(asked).select(list(QueryStrongest.columns()))


def _strongest(
    ids: pl.Series, gains: "np.ndarray[Any, Any]", better: int, count: int
) -> pl.DataFrame:
    """Return a block's rows that can be among the strongest; `gains` are [Q, block]."""
    tables = [pl.DataFrame(schema=_STRONGEST)]
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        sizes = sign * gains
        wanted = sizes > 0
        if len(ids) > count:
            # What equals the last of them is kept: which come first, the order decides.
            wanted &= sizes >= np.partition(sizes, -count, axis=1)[:, -count, None]
        query, row = np.nonzero(wanted)
        columns = (query, side, 0, ids.gather(row), better * gains[query, row])
        rows = dict(zip(_STRONGEST, columns, strict=True))
        tables.append(pl.DataFrame(rows, schema=_STRONGEST))
    return pl.concat(tables)


def stored_scores(table: pl.LazyFrame, query: int | None = None) -> pl.Expr:
    """Return the scores in float32, of all queries or of one.

    Args:
        table: `schemas.AttributionScores`.
        query: Its place.

    Raises:
        InputError: If they are not kept.
    """
    schema, scores = table.collect_schema(), pl.col("scores")
    if "scores" not in schema:
        raise InputError(
            "Expected all scores, but this audit kept the strongest of every query alone. Set "
            "attribution.precision.stored_scores to float32 or float16 in place of strongest, and "
            "run `kedro run --pipelines audit` again."
        )
    if query is not None:
        scores = scores.arr.get(query)
    if "scale" not in schema:
        return scores
    width = getattr(schema["scores"], "size", 0)
    kind = pl.Float32() if query is not None else pl.Array(pl.Float32, width)
    return scores.cast(kind) * pl.col("scale")


class ScoreFilesDataset(AbstractDataset[NoReturn, ScoreFiles]):
    """Hands out the scores without reading them.

    YAML:
        score_files:
          type: sourcetrace.datasets.ScoreFilesDataset
          path: data/07_model_output/attribution_scores

    Python:
        ScoreFilesDataset(path="attribution_scores").load().digest()
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def _load(self) -> ScoreFiles:
        return ScoreFiles(Path(self._path))

    def _save(self, data: NoReturn) -> None:
        raise NotImplementedError("Scores are saved under attribution_scores.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}
