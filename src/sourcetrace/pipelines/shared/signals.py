"""What the members of an ensemble say of an example, as one row."""

from collections.abc import Sequence

import polars as pl


def average_signals(signals: pl.DataFrame, *, by: Sequence[str]) -> pl.DataFrame:
    """Return one row for every value of `by`: the mean of numbers, the commonest label.

    Of equally common labels the first stands. Rows that are alone stay as they are.

    Args:
        signals: Signals of the members, one member after the other.
        by: Columns that name a row of the result.
    """
    if not signals.select(by).is_duplicated().any():
        return signals
    numbers = [name for name, dtype in signals.schema.items() if dtype.is_float()]
    return signals.group_by(by, maintain_order=True).agg(
        pl.col(numbers).mean(),
        pl.col("predicted_label").mode(maintain_order=True).first(),
    )
