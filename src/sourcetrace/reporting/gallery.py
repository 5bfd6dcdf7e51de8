"""The gallery: a card for each of the top suspects, with its picture or its columns."""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from sourcetrace.formats import MISSING, format_number, shorten

_DETAIL_COLUMNS = 8
_LONGEST_VALUE = 240
"""Characters of a value: a sentence or two of a text."""

# A scan of 8×8 pixels is enlarged to at least this, a photograph reduced to at most that.
_SMALLEST_SIDE = 96
_LARGEST_SIDE = 224
_GREY, _COLOUR = 2, 3


def gallery_card(
    row: Mapping[str, Any], *, pictures: Mapping[str, np.ndarray], details: pl.DataFrame | None
) -> dict[str, Any]:
    """Return a row of the review list with its picture, and with the columns that there are of it.

    Args:
        row: By column.
        pictures: Example id -> [H, W] or [H, W, 3] in 0..1; ids may be missing.
        details: Columns to show, with `example_id`; ids may be missing.
    """
    picture = pictures.get(row["example_id"])
    own = pl.DataFrame() if details is None else details.filter(example_id=row["example_id"])
    # Vectors and structures are for machines; the label is on the card already.
    shown = [
        (name, value)
        for name, value in (own.row(0, named=True) if own.height else {}).items()
        if not own.schema[name].is_nested()
        and own.schema[name] != pl.Binary
        and name not in ("example_id", "label")
        and value != ""
    ]
    return {
        **row,
        "picture": None if picture is None else _picture_uri(np.asarray(picture)),
        "details": [(shorten(name), _detail(value)) for name, value in shown[:_DETAIL_COLUMNS]],
        "more_details": max(0, len(shown) - _DETAIL_COLUMNS),
    }


def _picture_uri(values: np.ndarray) -> str:
    """Return a picture as a `data:image/png` address, so that the page needs no other file.

    Small pictures grow by a whole factor without smoothing: every pixel stays a square.

    Args:
        values: [H, W] grey or [H, W, 3] red, green, blue; 0 is dark, 1 is bright.

    Raises:
        ValueError: If the shape is another one.
    """
    grey = values.ndim == _GREY
    colour = values.ndim == _COLOUR and values.shape[-1] == _COLOUR
    if not (grey or colour) or values.size == 0:
        raise ValueError(
            f"A picture has the shape {list(values.shape)}; expected [H, W] or [H, W, 3], not "
            "empty. Move the channels last, and drop an axis of length 1."
        )
    levels = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0).clip(0, 1)
    image = Image.fromarray((levels * 255).round().astype(np.uint8))
    longest = max(image.size)
    if longest < _SMALLEST_SIDE:
        factor = math.ceil(_SMALLEST_SIDE / longest)
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    elif longest > _LARGEST_SIDE:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _detail(value: object) -> str:
    if value is None:
        return MISSING
    return format_number(value) if isinstance(value, float) else shorten(str(value), _LONGEST_VALUE)
