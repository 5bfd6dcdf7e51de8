"""Which training examples each retraining leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.parameters import VerificationParameters


@dataclass(frozen=True)
class Group:
    """A set of training examples to train on.

    Attributes:
        name: Unique.
        kind: One of `schemas.verification.KINDS`.
        query: Number of the query whose helpers are meant.
        removed: Numbers of the examples left out, increasing.
    """

    name: str
    kind: str
    query: int | None
    removed: "np.ndarray[Any, Any]"

    @classmethod
    def subsets(cls, stages: pl.Series, verification: VerificationParameters) -> list[Self]:
        """Draw subsets with the same share of every stage, which keep at least one example of it.

        Args:
            stages: Stage of every training example, or the stages it belongs to, as one text.
            verification: How many subsets, which share, and the seed.

        Raises:
            InputError: If they leave nothing out.
        """
        strata = _strata(stages)
        groups = []
        for number in range(verification.subsets):
            random = np.random.default_rng([verification.seed, number])
            removed = np.concatenate(
                [
                    random.permutation(members)[
                        max(1, round(verification.fraction * len(members))) :
                    ]
                    for members in strata
                ]
            )
            if not len(removed):
                raise InputError(
                    f"verification.fraction {verification.fraction} of {len(stages)} training "
                    "examples leaves none out. Lower it; 0.5 is usual."
                )
            groups.append(cls(f"subset-{number:03d}", "subset", None, np.sort(removed)))
        return groups

    @classmethod
    def removals(
        cls,
        score_files: ScoreFiles,
        queries: Sequence[int],
        classes: pl.Series,
        *,
        better: int,
        verification: VerificationParameters,
    ) -> list[Self]:
        """Choose the top helpers of every query, and as many random examples of the same classes.

        Args:
            score_files: The scores.
            queries: Numbers of the queries.
            classes: What random examples must share with the helpers, of every training example.
            better: 1 where a higher measurement is better, else -1.
            verification: Sizes and seed.

        Raises:
            InputError: If a removal would leave less than half of the examples.
        """
        sizes = verification.removal_counts(len(classes))
        if not queries or not sizes:
            return []
        strata = _strata(classes)
        chosen = np.concatenate([scores[:, list(queries)] for _, scores in score_files.blocks()])
        groups = []
        for column, query in enumerate(queries):
            # Removing a helper makes the measurement worse; equal scores keep their order.
            order = np.argsort(better * chosen[:, column], kind="stable")
            for size in sizes:
                helpers = np.sort(order[:size])
                random = np.random.default_rng([verification.seed, query, size])
                others = [
                    random.choice(members, np.isin(members, helpers).sum(), replace=False)
                    for members in strata
                ]
                name = f"{query:06d}-{size}"
                groups += [
                    cls(f"helpers-{name}", "helpers", query, helpers),
                    cls(f"random-{name}", "random", query, np.sort(np.concatenate(others))),
                ]
        return groups


def _strata(values: pl.Series) -> list["np.ndarray[Any, Any]"]:
    """Return the numbers of the examples of every value, in the order in which values come."""
    table = pl.DataFrame({"value": values}).with_row_index("number")
    groups = table.group_by("value", maintain_order=True).agg(pl.col("number").cast(pl.Int64))
    return [numbers.to_numpy() for numbers in groups["number"]]
