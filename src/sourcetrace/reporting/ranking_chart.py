"""The chart of rankings against planted errors: what is found for how much inspection."""

import math

import altair as alt
import polars as pl

from sourcetrace.formats import format_share
from sourcetrace.reporting.drawing import PER_CENT, Figure, across, rule_at, upwards
from sourcetrace.reporting.palette import DASHES, RANKINGS, Ink
from sourcetrace.reporting.records import GroundTruth

# Nobody inspects more than half of the data to find errors in it.
_CURVE_END = 0.5


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
    inks = [RANKINGS[i % len(RANKINGS)].light for i in range(len(names))]
    # A second round of the colours gets other dashes.
    dashes = [DASHES[(i + i // len(DASHES)) % len(DASHES)] for i in range(len(names))]
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
        "How early each ranking finds the planted errors",
        f"Higher at the dashed line (the first {format_share(top_share)}) is better: that is the "
        "part a person will really look at. The pale line is a random order; only the first "
        f"{format_share(_CURVE_END)} of the examples are drawn.",
        "Line chart of recall against the share inspected; the table has the numbers.",
        layers,
        height=300 + 18 * math.ceil(len(names) / columns),
        above="share of the planted errors found",
    )
