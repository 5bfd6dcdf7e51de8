"""What the members of an ensemble say of an example, as one row."""

import polars as pl


def average_signals(signals: pl.DataFrame) -> pl.DataFrame:
    """Return one row for every example: the mean of numbers, the commonest label.

    Of equally common labels the first stands. Rows that are alone stay as they are.

    Args:
        signals: Signals of the members, one member after the other.
    """
    if signals["example_id"].n_unique() == signals.height:
        return signals
    numbers = [name for name, dtype in signals.schema.items() if dtype.is_float()]
    return signals.group_by("example_id", maintain_order=True).agg(
        pl.col(numbers).mean(),
        pl.col("predicted_label").mode(maintain_order=True).first(),
    )
