"""Charts of a verification: the queries' rank correlations, predicted against measured change."""

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.formats import format_noun, format_number
from sourcetrace.reporting.drawing import Figure, across, rule_at, upwards
from sourcetrace.reporting.palette import Ink

_BIN = 0.1
_KINDS = {"helpers": "helpers", "random": "at random"}


def correlation_histogram(queries: pl.DataFrame, summary: pl.DataFrame) -> Figure | None:
    """Draw how many queries have which rank correlation, with the mean and the ceiling."""
    if queries.is_empty():
        return None
    values = queries["lds"].to_numpy()
    low = min(-0.2, np.floor(values.min() / _BIN) * _BIN)
    edges = np.linspace(low, 1, round((1 - low) / _BIN) + 1)
    # A correlation of exactly 1 or -1 may stand beyond the last edge by rounding.
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    bars = pl.DataFrame({"start": edges[:-1], "end": edges[1:], "queries": counts, "none": 0})
    x = across(
        "start",
        "rank correlation of predicted and retrained outcome",
        {"domain": [float(low), 1.0]},
        tickCount=7,
        format="~g",
    )
    y = upwards("queries", {}, tickCount=5, format="d")
    mean, ceiling = (
        summary.filter(measure=measure)["value"].item() for measure in ("lds", "ceiling")
    )
    layers = [
        alt.Chart(bars)
        .mark_rect(color=Ink.KEEP.light, opacity=0.75, stroke=Ink.PANEL.light)
        .encode(x=x, x2="end", y=y, y2="none")
    ]
    for value, dash, ink in ((mean, [1, 0], Ink.RELABEL), (ceiling, [4, 3], Ink.MUTED)):
        if value is not None:
            layers.append(rule_at(x, value, color=ink.light, strokeDash=dash, strokeWidth=2))
    below = int((values <= 0).sum())
    return Figure.draw(
        "trust-queries",
        "How well each query is predicted",
        "The solid line is the mean over queries, the trust figure; the dashed one is what perfect "
        "scores would reach with this much retraining noise. Queries left of 0 are predicted the "
        "wrong way round, or hardly depend on which half was trained on.",
        f"Histogram of {format_noun(len(values), 'query', 'queries')}; mean "
        f"{format_number(mean)}, {below} at or below 0.",
        layers,
        height=280,
        above="queries",
    )


def removal_scatter(removals: pl.DataFrame, summary: pl.DataFrame) -> Figure | None:
    """Draw measured against predicted change of every removal, with the slope."""
    if removals.is_empty():
        return None
    points = removals.select(
        "predicted_change",
        "measured_change",
        kind=pl.col("kind").replace_strict(_KINDS, return_dtype=pl.String),
    )
    slope = summary.filter(measure="removal_slope")["value"].item()
    predicted = points["predicted_change"].to_numpy()
    ends = [min(float(predicted.min()), 0.0), max(float(predicted.max()), 0.0)]
    x = across(
        "predicted_change",
        "predicted change: sum of the removed examples’ scores",
        {"padding": 12},
        tickCount=6,
        format="~g",
    )
    y = upwards("measured_change", {"padding": 12, "nice": False}, tickCount=6, format="~g")
    kinds, inks = list(_KINDS.values()), [Ink.RELABEL.light, Ink.KEEP.light]
    layers = []
    for factor, dash, ink in ((1.0, [4, 3], Ink.MUTED), (slope, [1, 0], Ink.INK)):
        if factor is not None:
            line = pl.DataFrame(
                {"predicted_change": ends, "measured_change": [factor * end for end in ends]}
            )
            layers.append(
                alt.Chart(line)
                .mark_line(color=ink.light, strokeDash=dash, strokeWidth=1.5)
                .encode(x=x, y=y)
            )
    layers.append(
        alt.Chart(points)
        .mark_point(size=54, filled=True, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=inks)),
            shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle"])),
        )
    )
    return Figure.draw(
        "trust-removals",
        "Predicted and measured change on removal",
        "Each point is one removal, measured on one query by retraining. On the dashed line the "
        "scores’ units would be exact; the solid line is the slope through the origin.",
        f"Scatter plot of {format_noun(removals.height, 'removal')}; slope {format_number(slope)}.",
        layers,
        height=300,
        above="measured change",
    )
