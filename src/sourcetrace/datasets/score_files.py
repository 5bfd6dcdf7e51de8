"""The attribution scores read a file at a time, and a digest of them."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
from kedro.io import AbstractDataset

from sourcetrace.errors import InputError


class ScoreFiles:
    """The files of `attribution_scores`, of which one at a time is in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blocks(self) -> Iterator[tuple[pl.Series, "np.ndarray[Any, Any]"]]:
        """Yield the ids and the scores [block, Q] of consecutive training examples.

        Raises:
            InputError: If there are no scores yet.
        """
        files = sorted(self._folder.glob("part-*.parquet"))
        if not files:
            raise InputError(
                f"There are no attribution scores in {str(self._folder)!r} yet. Run "
                "`kedro run --pipelines audit` first."
            )
        for file in files:
            rows = pl.read_parquet(file, hive_partitioning=False)
            yield rows["example_id"], rows["scores"].to_numpy()

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

    def digest(self) -> str:
        """Return a digest of ids and scores, however they are spread over files."""
        ids, values = hashlib.sha256(), hashlib.sha256()
        for names, scores in self.blocks():
            ids.update("".join(f"{name}\0" for name in names).encode())
            values.update(scores.astype("<f4", order="C").tobytes())
        return hashlib.sha256(ids.digest() + values.digest()).hexdigest()

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
