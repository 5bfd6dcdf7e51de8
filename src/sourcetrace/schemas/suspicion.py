"""How wrong labels look, before anything is suggested."""

import pandera.polars as pa

from sourcetrace.schemas.table import Table


class Suspicions(Table):
    """One row a training example, in the training table's order.

    Attributes:
        suspicion: All signals together, from 0 to 1; it orders examples, and is no probability.
        false_discovery: The q-value: were every example that looks as bad called wrong, about
            this share of them would be right.
        corrected_probability: What the model would give the given label, had it not been trained
            on the example; of tasks with classes.
        other_label: What it would say instead, where it is sure of one.
        exploratory: Why false_discovery is no more than an indication; empty where it is one.
    """

    example_id: str = pa.Field(unique=True)
    suspicion: float = pa.Field(ge=0, le=1)
    false_discovery: float = pa.Field(ge=0, le=1)
    corrected_probability: float | None = pa.Field(nullable=True, ge=0, le=1)
    other_label: str | None = pa.Field(nullable=True)
    exploratory: str
