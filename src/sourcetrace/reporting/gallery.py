"""The gallery: a card for each of the top suspects, with its picture or its columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from sourcetrace.formats import (
    MISSING,
    format_count,
    format_number,
    format_share,
    format_with_error,
    shorten,
)
from sourcetrace.reporting.pictures import picture_uri

_DETAIL_COLUMNS = 8


def gallery_card(
    row: Mapping[str, Any], *, pictures: Mapping[str, np.ndarray], details: pl.DataFrame | None
) -> dict[str, Any]:
    """Return the card of a row of the review list.

    Args:
        row: By column.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1; ids may be missing.
        details: Columns to show, with `example_id`; ids may be missing.
    """
    example_id, given, predicted = row["example_id"], row["given_label"], row["predicted_label"]
    shown, more = _details(example_id, details)
    facts = [
        ("Harm", format_with_error(row["harm"], row["harm_error"])),
        ("Loss influence", format_number(row["total_query_loss_influence"], signed=True)),
        ("Loss", format_number(row["loss"])),
    ]
    if row["given_label_probability"] is not None:
        facts.append(("P(given)", format_share(row["given_label_probability"])))
    alternative = f"Training example {shorten(example_id)}"
    if given is not None:
        alternative += f", given label {shorten(given)}"
    if predicted is not None:
        alternative += f", predicted label {shorten(predicted)}"
    picture = pictures.get(example_id)
    return {
        "rank": format_count(row["rank"]),
        "example_id": example_id,
        "action": row["suggested_action"],
        "reason": row["reason"],
        "given": given,
        "predicted": predicted,
        "facts": facts,
        "details": shown,
        "more_details": more,
        # Base64 alone, and longer than any text that is shown.
        "picture": None if picture is None else Markup(picture_uri(np.asarray(picture))),  # noqa: S704
        "alternative": alternative,
    }


def _details(example_id: str, details: pl.DataFrame | None) -> tuple[list[tuple[str, str]], int]:
    """Return the columns that a card can show, and how many it cannot."""
    row = pl.DataFrame() if details is None else details.filter(example_id=example_id)
    if row.is_empty():
        return [], 0
    # Vectors and structures are for machines; the label is on the card already.
    names = [
        name
        for name, dtype in row.schema.items()
        if not dtype.is_nested() and dtype != pl.Binary and name not in ("example_id", "label")
    ]
    values = row.row(0, named=True)
    shown = [(shorten(name), _detail(values[name])) for name in names[:_DETAIL_COLUMNS]]
    return shown, max(0, len(names) - _DETAIL_COLUMNS)


def _detail(value: object) -> str:
    if value is None:
        return MISSING
    return format_number(value) if isinstance(value, float) else shorten(str(value))
