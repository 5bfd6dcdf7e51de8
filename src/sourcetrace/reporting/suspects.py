"""The table of suspects: what a person sees of each of them, and decides on.

It is whole without a script; `table.js` lets a reader sort, filter, decide and export.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from PIL import Image

from sourcetrace.formats import MISSING, format_number, safe_text, shorten
from sourcetrace.schemas import ReviewList
from sourcetrace.schemas.review import is_suspect, labels_are_numbers, rounded_labels

_ROWS = 300
_BYTES = 400_000
"""Of pictures and texts, so that a page stays one that can be mailed."""

_OWN_COLUMNS = 8
_LONGEST_VALUE = 240
"""Characters of a value: a sentence or two of a text."""

_MOST_LABELS = 1000
"""More are typed, not chosen."""

_LARGEST_SIDE = 160
"""Pixels of a picture, which the page shows at half the size."""

_EVERY_PIXEL = 64
"""Sides up to which every pixel is kept."""

_GREY, _COLOUR = 2, 3


@dataclass(frozen=True)
class SuspectTable:
    """The first suspects.

    Attributes:
        rows: `schemas.ReviewList` by column, with `picture` (an address, or None), `own` (the
            task's own columns, name and value), `more_own` and `disagrees`: whether the queries'
            summed loss would grow although they would be measured better.
        suspects: How many there are in all.
        data: What the script needs: scores, labels, and ids as they are and not as they are shown.
    """

    rows: list[dict[str, Any]]
    suspects: int
    data: dict[str, Any]

    @classmethod
    def of(
        cls,
        review_list: pl.DataFrame,
        *,
        pictures: Mapping[str, np.ndarray],
        scores_digest: str,
        groups: Mapping[str, list[str]] | None = None,
    ) -> Self:
        """Return as many of the first suspects as a page has room for.

        Args:
            review_list: `schemas.ReviewList` in its order, with the task's own columns.
            pictures: Example id -> [H, W] or [H, W, 3] in 0..1; ids may be missing.
            scores_digest: Under which a browser keeps the decisions.
            groups: Example id -> its groups' ids; ids may be missing.
        """
        suspects = rounded_labels(review_list).filter(is_suspect())
        rows: list[dict[str, Any]] = []
        room = _BYTES
        for row in suspects.head(_ROWS).iter_rows(named=True):
            shown = _shown(row, pictures, _own_columns(suspects))
            room -= sum(len(str(value).encode("utf-8", "replace")) for value in shown.values())
            if rows and room < 0:
                break
            rows.append(shown)
        labels = [] if labels_are_numbers(review_list) else _labels(review_list)
        return cls(
            rows,
            suspects.height,
            {
                "scores": scores_digest,
                "labels": [[label, safe_text(label, 80)] for label in labels],
                "rows": [
                    {
                        "id": row["example_id"],
                        "content": row.get("content_digest") or "",
                        "given": row["given_label"],
                        "label": _new_label(row),
                        "before": row["decision"] is not None,
                        "groups": (groups or {}).get(row["example_id"], []),
                    }
                    for row in rows
                ],
            },
        )


def _new_label(row: Mapping[str, Any]) -> str:
    """Return the label that a relabelling begins with; none where the model believes the given."""
    label = row["suggested_label"] or row["predicted_label"] or ""
    return "" if label == row["given_label"] else label


def _own_columns(suspects: pl.DataFrame) -> list[str]:
    """Return the task's own columns; the stage is one where there are several."""
    own = [name for name in suspects.columns if name not in ReviewList.columns()]
    return [*(["stage"] if suspects["stage"].n_unique() > 1 else []), *own]


def _shown(
    row: dict[str, Any], pictures: Mapping[str, np.ndarray], own: list[str]
) -> dict[str, Any]:
    picture = pictures.get(row["example_id"])
    values = [(shorten(name), _value(row[name])) for name in own if row[name] != ""]
    return {
        **row,
        "picture": None if picture is None else picture_uri(np.asarray(picture)),
        "own": values[:_OWN_COLUMNS],
        "more_own": max(0, len(values) - _OWN_COLUMNS),
        "disagrees": row["harm"] * row["total_query_loss_influence"] > 0,
    }


def _labels(review_list: pl.DataFrame) -> list[str]:
    """Return the labels that exist; none where there are too many to choose from."""
    labels = review_list["given_label"].drop_nulls().unique().to_list()
    if len(labels) > _MOST_LABELS:
        return []
    return sorted(labels, key=lambda label: (len(label), label) if label.isdigit() else (99, label))


def picture_uri(values: np.ndarray) -> str:
    """Return a picture as a `data:` address, so that the page needs no other file.

    Args:
        values: [H, W] or [H, W, 1] grey, or [H, W, 3] red, green, blue; 0 is dark, 1 is bright.

    Raises:
        ValueError: If the shape is another one.
    """
    values = values[..., 0] if values.shape[2:] == (1,) else values
    grey = values.ndim == _GREY
    colour = values.ndim == _COLOUR and values.shape[-1] == _COLOUR
    if not (grey or colour) or values.size == 0:
        raise ValueError(
            f"A picture has the shape {list(values.shape)}; expected [H, W] or [H, W, 3], not "
            "empty. Move the channels last."
        )
    levels = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0).clip(0, 1)
    image = Image.fromarray((levels * 255).round().astype(np.uint8))
    kind = "PNG" if max(image.size) <= _EVERY_PIXEL else "JPEG"
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format=kind, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"


def _value(value: object) -> str:
    if value is None:
        return MISSING
    return format_number(value) if isinstance(value, float) else shorten(str(value), _LONGEST_VALUE)
