"""Arrays as PNG data URIs, so that the page needs no other file."""

import base64
import io
import math

import numpy as np
from PIL import Image

# A scan of 8×8 pixels is enlarged to at least this, a photograph reduced to at most that.
_SMALLEST_SIDE = 96
_LARGEST_SIDE = 224
_GREY, _COLOUR = 2, 3


def picture_uri(values: np.ndarray) -> str:
    """Return a picture as a `data:image/png` address.

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
