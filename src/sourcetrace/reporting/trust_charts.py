"""Charts of what tests the scores: retraining, and errors that somebody planted."""

import math

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.reporting.drawing import PER_CENT, Figure, across, marks_by, rule_at, upwards
from sourcetrace.reporting.records import GroundTruth
from sourcetrace.reporting.templating import Ink
from sourcetrace.reporting.trust import Retraining

_BIN = 0.1
# Nobody inspects more than half of the data to find errors in it.
_CURVE_END = 0.5
_KINDS = {"helpers": "helpers", "random": "at random"}
_LOOKS = {"helpers": (Ink.RELABEL, "diamond"), "at random": (Ink.KEEP, "circle")}

# Rankings of the ground-truth chart; the order of colours and of dashes goes with them.
_RANKINGS = (Ink.RELABEL, Ink.KEEP, Ink.CHECK, Ink.GREEN, Ink.VIOLET, Ink.GREY)
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])


def trust_figures(verification: Retraining) -> list[Figure]:
    """Return the charts for which there is something to draw."""
    drawn = (
        _correlation_histogram(verification.queries, verification.summary),
        _removal_scatter(verification.removals, verification.summary),
    )
    return [figure for figure in drawn if figure is not None]


def _correlation_histogram(queries: pl.DataFrame, summary: pl.DataFrame) -> Figure | None:
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
    return Figure.draw(
        "trust-queries",
        layers,
        height=280,
        above="queries",
        queries=len(values),
        mean=mean,
        below=int((values <= 0).sum()),
    )


def _removal_scatter(removals: pl.DataFrame, summary: pl.DataFrame) -> Figure | None:
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
        .encode(x=x, y=y, **marks_by("kind", _LOOKS))
    )
    return Figure.draw(
        "trust-removals",
        layers,
        height=300,
        above="measured change",
        removals=removals.height,
        slope=slope,
    )


def recall_curve(truth: GroundTruth) -> Figure | None:
    """Draw the share of planted errors found against the share of examples inspected."""
    names = [ranking.name for ranking in truth.rankings]
    if not names:
        return None
    data = pl.DataFrame(
        [
            (ranking.name, inspected, found)
            for ranking in truth.rankings
            for inspected, found in ranking.curve
            if inspected <= _CURVE_END
        ],
        schema={"ranking": pl.String, "inspected_share": pl.Float64, "found_share": pl.Float64},
        orient="row",
    )
    inks = [_RANKINGS[i % len(_RANKINGS)].light for i in range(len(names))]
    # A second round of the colours gets other dashes.
    dashes = [_DASHES[(i + i // len(_DASHES)) % len(_DASHES)] for i in range(len(names))]
    x = across(
        "inspected_share",
        "share of the training examples inspected",
        {"domain": [0, _CURVE_END]},
        labelExpr=PER_CENT,
        tickCount=6,
    )
    y = upwards("found_share", {"domain": [0, 1], "nice": False}, labelExpr=PER_CENT, tickCount=6)
    columns = 1 if max(map(len, names)) > 20 else 2  # noqa: PLR2004, characters that fit
    chance = pl.DataFrame({"inspected_share": [0.0, _CURVE_END], "found_share": [0.0, _CURVE_END]})
    top_share = truth.planted / truth.examples
    layers = [
        alt.Chart(chance).mark_line(color=Ink.RULE.light, strokeWidth=1.5).encode(x=x, y=y),
        rule_at(x, top_share),
        alt.Chart(data)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "ranking:N",
                scale=alt.Scale(domain=names, range=inks),
                legend=alt.Legend(columns=columns, symbolSize=400, labelLimit=360 // columns - 30),
            ),
            strokeDash=alt.StrokeDash("ranking:N", scale=alt.Scale(domain=names, range=dashes)),
        ),
    ]
    return Figure.draw(
        "recall-curve",
        layers,
        height=300 + 18 * math.ceil(len(names) / columns),
        above="share of the planted errors found",
        top_share=top_share,
        drawn=_CURVE_END,
    )
