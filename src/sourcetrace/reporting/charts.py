"""The chart of the suspects: harm beside plain loss.

What is drawn does not grow with the number of training examples: of many, the top suspects are
points, and as many of the others.
"""

import math

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.reporting.drawing import Figure, Ink, across, marks_by, rule_at, upwards
from sourcetrace.schemas.review import is_suspect

_POINTS = 300

_LOOKS = {
    "remove": (Ink.VIOLET, "cross"),
    "relabel": (Ink.RELABEL, "diamond"),
    "review": (Ink.CHECK, "triangle-up"),
    "keep": (Ink.KEEP, "circle"),
}


def loss_and_harm(review_list: pl.DataFrame, *, top_share: float) -> list[Figure]:
    """Draw the harm to the queries against the example's own loss, where both are known.

    Args:
        review_list: `schemas.ReviewList`.
        top_share: The share of the highest losses that is marked off.
    """
    data = review_list.filter(pl.col("loss").is_finite(), pl.col("harm").is_finite())
    if data.is_empty():
        return []
    losses = data["loss"].to_numpy()
    harms = data["harm"].to_numpy()
    ceiling = max(float(losses.max()), 1e-12)
    floor = min(max(float(np.quantile(losses, 0.02)), ceiling * 1e-6), ceiling / 10)
    largest = float(np.abs(harms).max()) or 1.0
    sizes = np.abs(harms[harms != 0])
    # Linear up to the constant, logarithmic beyond.
    constant = max(float(np.quantile(sizes, 0.5)) if sizes.size else 1.0, largest * 1e-4)

    x = across(
        "loss",
        "loss of the example at the final checkpoint (log scale)",
        {"type": "log", "domain": [floor, ceiling * 1.15], "clamp": True},
        values=_decades(floor, ceiling * 1.15, limit=7),
        format="~g",
    )
    y = upwards(
        "harm",
        {
            "type": "symlog",
            "constant": constant,
            "domain": [min(float(harms.min()) * 1.3, 0), max(float(harms.max()) * 1.3, 0)],
            "nice": False,
        },
        values=_signed_decades(harms, constant),
        format="~g",
    )
    kept, marked = (data.filter(which).sort("rank") for which in (~is_suspect(), is_suspect()))
    every = max(1, math.ceil(kept.height / _POINTS))
    points = pl.concat([kept.gather_every(every), marked.head(_POINTS)]).select(
        "rank", "harm", pl.col("loss").clip(floor), action="suggested_action"
    )
    marks = marks_by("action", _LOOKS)
    threshold = float(np.sort(losses)[-round(top_share * len(losses))])
    layers = [
        rule_at(x, max(threshold, floor)),
        alt.Chart(points)
        .mark_point(size=46, strokeWidth=1.4, fillOpacity=0.25)
        .encode(x=x, y=y, fill=alt.Fill("action:N", scale=marks["color"]["scale"]), **marks),
    ]
    figure = Figure.draw(
        "loss-and-harm",
        layers,
        height=350,
        above="harm: predicted gain of the queries on removal",
        wide=True,
        top_share=top_share,
        examples=data.height,
        suspects=marked.height,
        left=marked.filter(pl.col("loss") < threshold).height,
        every=every,
        points=_POINTS,
    )
    return [figure]


def _decades(low: float, high: float, *, limit: int) -> list[float]:
    """Return powers of ten from `low` to `high`, thinned evenly to `limit` at most."""
    exponents = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    every = max(1, math.ceil(len(exponents) / limit))
    return [10.0**exponent for exponent in exponents[::-1][::every][::-1]]


def _signed_decades(values: np.ndarray, constant: float) -> list[float]:
    """Return 0 and powers of ten of either sign, up to the largest value of that sign."""
    ticks = [0.0]
    for sign in (-1, 1):
        largest = float((sign * values).max())
        if largest > constant:
            ticks += [sign * tick for tick in _decades(constant, largest * 1.3, limit=4)]
    return sorted(ticks)
