"""What cleaning changes of the training data, and as many changes at random."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from sourcetrace.errors import InputError
from sourcetrace.schemas.review import open_action


@dataclass(frozen=True)
class Changes:
    """Training examples that are left out or get another label.

    Attributes:
        removed: Their numbers, increasing.
        labels: Number -> label.
    """

    removed: list[int]
    labels: dict[int, str]

    @classmethod
    def decided(
        cls, train_table: pl.DataFrame, cleaned_data: pl.DataFrame, review_list: pl.DataFrame
    ) -> Self:
        """Return what people decided of the examples of the review list.

        Raises:
            InputError: If the manifest is of other examples.
        """
        wanted = cleaned_data.drop_nulls("index")
        listed = train_table.select("example_id").join(
            review_list, on="example_id", how="semi", maintain_order="left"
        )
        if not wanted["example_id"].equals(listed["example_id"], check_dtypes=True):
            raise InputError(
                "There is no manifest of cleaned data of this audit's examples. Apply decisions "
                "first, `kedro run --pipelines apply_decisions --params "
                "decisions.path=decisions.csv`, or set cleaning.of to suggestions."
            )
        rows = train_table.select("example_id", given="label").join(
            wanted, on="example_id", how="left", maintain_order="left"
        )
        return cls._of(
            (None if label == given else label, keep is False)
            for keep, label, given in rows.select("keep", "label", "given").iter_rows()
        )

    @classmethod
    def suggested(cls, train_table: pl.DataFrame, review_list: pl.DataFrame) -> Self:
        """Return what the review list suggests, and nobody decided to keep."""
        actions = review_list.select("example_id", open_action(), label="suggested_label")
        rows = train_table.select("example_id").join(
            actions, on="example_id", how="left", maintain_order="left"
        )
        return cls._of(
            (label if action == "relabel" else None, action == "remove")
            for action, label in rows.select("action", "label").iter_rows()
        )

    @classmethod
    def _of(cls, rows: Iterable[tuple[str | None, bool]]) -> Self:
        """Return the changes of every example's new label, if any, and whether it goes."""
        removed: list[int] = []
        labels: dict[int, str] = {}
        for number, (label, goes) in enumerate(rows):
            if goes:
                removed.append(number)
            elif label is not None:
                labels[number] = label
        return cls(removed, labels)

    def at_random(self, classes: pl.Series, *, seed: list[int]) -> "Changes":
        """Return the same changes of random examples of the same classes.

        Args:
            classes: Of every training example.
            seed: Of the draw.
        """
        random = np.random.default_rng(seed)
        removed: list[int] = []
        labels: dict[int, str] = {}
        going = set(self.removed)
        numbers = pl.DataFrame({"class": classes}).with_row_index("number")
        for _, members in numbers.group_by("class", maintain_order=True):
            ours = members["number"].to_list()
            new = [self.labels[number] for number in ours if number in self.labels]
            gone = len(going.intersection(ours))
            drawn = random.choice(ours, gone + len(new), replace=False).tolist()
            removed += drawn[:gone]
            labels |= dict(zip(drawn[gone:], new, strict=True))
        return Changes(sorted(removed), dict(sorted(labels.items())))
