"""Charts over the last audits: shares, query loss, trust, with each audit's gate outcome."""

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.reporting.drawing import DIGITS, PER_CENT, Figure, across, marks_by, upwards
from sourcetrace.reporting.templating import Ink

_OUTCOMES = {
    "pass": (Ink.KEEP, "circle"),
    "warn": (Ink.CHECK, "triangle-up"),
    "inconclusive": (Ink.MUTED, "square"),
    "fail": (Ink.RELABEL, "diamond"),
}
_DASHES = ([1, 0], [5, 3])


def trend_figures(points: Sequence[AuditPoint]) -> list[Figure]:
    """Return the charts; none of a first audit, nor of what was measured less than twice.

    Args:
        points: The audits, oldest first; the last is the one the page is about.
    """
    shares = {"suspects": "suspect_share", "harmful": "harmful_share"}
    figures = [
        _trend("trend-shares", shares, points, above="share of the training examples"),
        _trend("trend-query-loss", {"loss": "mean_query_loss"}, points, above="mean query loss"),
        _trend("trend-trust", {"trust": "trust_lds"}, points, above="trust figure (LDS)"),
    ]
    return [figure for figure in figures if figure is not None]


def _trend(
    name: str, lines: Mapping[str, str], points: Sequence[AuditPoint], *, above: str
) -> Figure | None:
    """Draw measures by name, of the audits' attributes."""
    values = {line: [getattr(one, field) for one in points] for line, field in lines.items()}
    data = (
        pl.DataFrame(
            {
                "ago": range(1 - len(points), 1),
                "outcome": [one.outcome for one in points],
                **values,
            },
            schema_overrides=dict.fromkeys(values, pl.Float64),
        )
        .unpivot(list(values), index=["ago", "outcome"], variable_name="line")
        .filter(pl.col("value").is_finite())
        .with_columns(pl.col("value").round_sig_figs(DIGITS))
    )
    if data["ago"].n_unique() < 2:  # noqa: PLR2004, a trend takes two
        return None
    # At most seven audits are written below the axis, this one among them.
    ticks = [-ago for ago in range(0, len(points), -(-len(points) // 6))]
    x = across(
        "ago",
        "audits before this one",
        {"domain": [1 - len(points), 0], "padding": 14},
        format="d",
        values=ticks,
        labelExpr="abs(datum.value)",
    )
    label = PER_CENT if name == "trend-shares" else "format(datum.value, '~g')"
    y = upwards("value", {"zero": True}, tickCount=4, labelExpr=label)
    met = {outcome: look for outcome, look in _OUTCOMES.items() if outcome in set(data["outcome"])}
    layers = [
        alt.Chart(data.filter(line=line))
        .mark_line(color=Ink.MUTED.light, strokeWidth=1.5, strokeDash=dash)
        .encode(x=x, y=y)
        for line, dash in zip(values, _DASHES, strict=False)
    ]
    layers.append(
        alt.Chart(data)
        .mark_point(size=62, filled=True, opacity=1)
        .encode(x=x, y=y, **marks_by("outcome", met))
    )
    known = {
        line: [value for value in measured if value is not None]
        for line, measured in values.items()
    }
    return Figure.draw(
        name,
        layers,
        height=230,
        above=above,
        audits=len(points),
        since=points[0].at,
        known=known,
    )
