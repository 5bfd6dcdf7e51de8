"""The gallery: a card for each of the top suspects, with its picture or its columns."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from sourcetrace.formats import (
    MISSING,
    format_count,
    format_number,
    format_share,
    format_with_error,
    shorten,
)
from sourcetrace.reporting.pictures import picture_uri

GALLERY_CARDS = 48
# The rest waits behind one click, so that the charts stay within reach.
GALLERY_OPEN = 12
DETAIL_COLUMNS = 8


@dataclass(frozen=True)
class Card:
    """A suspect in the gallery, as shown."""

    rank: str
    example_id: str
    action: str
    reason: str
    given: str | None
    predicted: str | None
    facts: list[tuple[str, str]]
    details: list[tuple[str, str]]
    more_details: int
    picture: str | None
    alternative: str


def gallery_card(
    row: Mapping[str, object],
    *,
    pictures: Mapping[str, np.ndarray],
    details: pl.DataFrame | None,
) -> Card:
    """Return the card of a row of the review list.

    Args:
        row: By column.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1; ids may be missing.
        details: Columns to show, with `example_id`; ids may be missing.
    """
    example_id = str(row["example_id"])
    given, predicted = row["given_label"], row["predicted_label"]
    values = pictures.get(example_id)
    shown, more = _details(example_id, details)
    facts = [
        ("Harm", format_with_error(_float(row["harm"]), _float(row["harm_error"]))),
        (
            "Loss influence",
            format_number(_float(row["total_query_loss_influence"]), signed=True),
        ),
        ("Loss", format_number(_float(row["loss"]))),
    ]
    if row["given_label_probability"] is not None:
        facts.append(("P(given)", format_share(_float(row["given_label_probability"]))))
    alternative = f"Training example {example_id}"
    if given is not None:
        alternative += f", given label {given}"
    if predicted is not None:
        alternative += f", predicted label {predicted}"
    return Card(
        rank=format_count(int(str(row["rank"]))),
        example_id=example_id,
        action=str(row["suggested_action"]),
        reason=str(row["reason"]),
        given=None if given is None else str(given),
        predicted=None if predicted is None else str(predicted),
        facts=facts,
        details=shown,
        more_details=more,
        picture=None if values is None else picture_uri(np.asarray(values)),
        alternative=alternative,
    )


def _details(example_id: str, details: pl.DataFrame | None) -> tuple[list[tuple[str, str]], int]:
    """Return the columns that a card can show, and how many it cannot."""
    if details is None:
        return [], 0
    row = details.filter(pl.col("example_id") == example_id).head(1)
    if row.is_empty():
        return [], 0
    # Vectors and structures are for machines; the label is on the card already.
    names = [
        name
        for name, dtype in row.schema.items()
        if not dtype.is_nested() and dtype != pl.Binary and name not in ("example_id", "label")
    ]
    values = row.row(0, named=True)
    shown = [(name, _detail(values[name])) for name in names[:DETAIL_COLUMNS]]
    return shown, max(0, len(names) - DETAIL_COLUMNS)


def _detail(value: object) -> str:
    if value is None:
        return MISSING
    return format_number(value) if isinstance(value, float) else shorten(str(value))


def _float(value: object) -> float | None:
    return None if value is None else float(str(value))
