"""The chart of rankings against planted errors: what is found for how much inspection."""

import math

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.formats import format_share
from sourcetrace.reporting import palette
from sourcetrace.reporting.drawing import PER_CENT, Figure, draw
from sourcetrace.reporting.findings import TOP_SHARE

CURVE_POINTS = 200
# Nobody inspects more than half of the data to find errors in it.
CURVE_END = 0.5


def recall_curve(curve: pl.DataFrame) -> Figure | None:
    """Draw the share of planted errors found against the share of examples inspected.

    Args:
        curve: Columns ranking, inspected_share, found_share.
    """
    if curve.is_empty():
        return None
    rankings = curve.get_column("ranking").unique(maintain_order=True).to_list()
    data = pl.concat(
        [
            _thin(
                curve.filter(
                    pl.col("ranking") == name, pl.col("inspected_share") <= CURVE_END
                ).sort("inspected_share")
            )
            for name in rankings
        ]
    ).select("ranking", "inspected_share", "found_share")
    inks = [palette.RANKINGS[i % len(palette.RANKINGS)].light for i in range(len(rankings))]
    # A second round of the colours gets other dashes.
    dashes = [
        palette.DASHES[(i + i // len(palette.DASHES)) % len(palette.DASHES)]
        for i in range(len(rankings))
    ]
    x = alt.X(
        "inspected_share:Q",
        title="share of the training examples inspected",
        scale=alt.Scale(domain=[0, CURVE_END], nice=False),
        axis=alt.Axis(labelExpr=PER_CENT, grid=False, tickCount=6),
    )
    y = alt.Y(
        "found_share:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(labelExpr=PER_CENT, tickCount=6, domain=False, ticks=False),
    )
    columns = 1 if max(map(len, rankings)) > 20 else 2  # noqa: PLR2004, characters that fit
    chance = pl.DataFrame({"inspected_share": [0.0, CURVE_END], "found_share": [0.0, CURVE_END]})
    layers = [
        alt.Chart(chance).mark_line(color=palette.RULE.light, strokeWidth=1.5).encode(x=x, y=y),
        alt.Chart(pl.DataFrame({"inspected_share": [TOP_SHARE]}))
        .mark_rule(color=palette.MUTED.light, strokeDash=[4, 3])
        .encode(x=x),
        alt.Chart(data)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "ranking:N",
                scale=alt.Scale(domain=rankings, range=inks),
                legend=alt.Legend(columns=columns, symbolSize=400, labelLimit=360 // columns - 30),
            ),
            strokeDash=alt.StrokeDash("ranking:N", scale=alt.Scale(domain=rankings, range=dashes)),
        ),
    ]
    return draw(
        "recall-curve",
        "How early each ranking finds the planted errors",
        f"Higher at the dashed line (the first {format_share(TOP_SHARE)}) is better: that is the "
        "part a person will really look at. The pale line is a random order; only the first "
        f"{format_share(CURVE_END)} of the examples are drawn.",
        "Line chart of recall against the share inspected; the table has the numbers.",
        layers,
        height=300 + 18 * math.ceil(len(rankings) / columns),
        above="share of the planted errors found",
    )


def _thin(curve: pl.DataFrame) -> pl.DataFrame:
    """Keep at most `CURVE_POINTS` rows, the first and the last among them."""
    if curve.height <= CURVE_POINTS:
        return curve
    chosen = np.unique(np.linspace(0, curve.height - 1, CURVE_POINTS).round().astype(np.int64))
    return curve[chosen]
