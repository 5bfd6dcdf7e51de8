"""The attribution scores read a file at a time, and a digest of them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.errors import InputError
from sourcetrace.files import file_digest


class ScoreFiles:
    """The files of `attribution_scores`, of which one at a time is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blocks(self) -> Iterator[tuple[pl.Series, "np.ndarray[Any, Any]"]]:
        """Yield the ids and the scores [block, Q] of consecutive training examples.

        Raises:
            InputError: If there are no scores yet.
        """
        for file in self._files():
            table = pl.scan_parquet(file, glob=False, hive_partitioning=False)
            rows = table.select("example_id", stored_scores(table)).collect()
            yield rows["example_id"], rows["scores"].to_numpy()

    def sums_over(self, groups: pl.Series, *, sizes: bool = False) -> "np.ndarray[Any, Any]":
        """Return the sum of the scores over each group of training examples, [groups, Q].

        The predicted change of the queries' measurements on its removal.

        Args:
            groups: A list of numbers each, increasing.
            sizes: Whether to add up the scores' absolute values.
        """
        start, total = 0, 0.0
        numbers = [group.to_numpy() for group in groups]
        for _, scores in self.blocks():
            inside = np.zeros((len(numbers), len(scores)))
            for row, group in zip(inside, numbers, strict=True):
                first, last = np.searchsorted(group, (start, start + len(scores)))
                row[group[first:last] - start] = 1
            values: np.ndarray[Any, Any] = np.abs(scores) if sizes else scores
            total = total + inside @ values.astype(np.float64)
            start += len(scores)
        return np.asarray(total)

    def strongest(
        self, queries: Sequence[int], count: int, *, higher_is_better: bool
    ) -> pl.DataFrame:
        """Return the strongest helpers and harmers of some queries, of equal ones the first.

        Memory is that of a file and of what is returned.

        Args:
            queries: Their places among the scores.
            count: At most so many of each side; those that change nothing are none.
            higher_is_better: Whether a larger measurement is a better one.

        Returns:
            query (place in `queries`), side, rank, example_id and score, in this order.
        """
        better = 1 if higher_is_better else -1
        # A column a query and side; what does not exceed its floor cannot be among the strongest.
        floors = np.zeros(2 * len(queries), np.float32)
        order, descending = ["column", "gain", "example"], [False, True, False]
        columns = {"column": pl.Int64, "gain": pl.Float32, "example": pl.Int64}
        best, start = pl.DataFrame(schema={**columns, "example_id": pl.String}), 0
        for ids, scores in self.blocks():
            gains = better * scores[:, queries]
            gains = np.concatenate([-gains, gains], axis=1)
            rows, own = np.nonzero(gains > floors)
            found = pl.DataFrame(
                {"column": own, "gain": gains[rows, own], "example": start + rows}, schema=columns
            ).with_columns(example_id=ids.gather(rows))
            start += len(ids)
            best = pl.concat([best, found]).sort(order, descending=descending)
            best = best.group_by("column", maintain_order=True).head(count)
            full = best.group_by("column").agg(pl.len(), pl.col("gain").last())
            full = full.filter(pl.col("len") == count)
            floors[full["column"].to_numpy()] = full["gain"].to_numpy()
        harms = pl.col("column") >= len(queries)
        return best.select(
            (pl.col("column") % len(queries)).alias("query"),
            pl.when(harms).then(pl.lit("harmer")).otherwise(pl.lit("helper")).alias("side"),
            pl.int_range(1, pl.len() + 1).over("column").alias("rank"),
            "example_id",
            score=(better * pl.when(harms).then("gain").otherwise(-pl.col("gain"))).cast(
                pl.Float64
            ),
        ).sort("query", pl.col("side") == "harmer", "rank")

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


def stored_scores(table: pl.LazyFrame, query: int | None = None) -> pl.Expr:
    """Return the scores in float32, of all queries or of one.

    Args:
        table: `schemas.AttributionScores`.
        query: Its place.
    """
    schema, scores = table.collect_schema(), pl.col("scores")
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
