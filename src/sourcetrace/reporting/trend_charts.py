"""Charts over the last audits: shares, query loss, trust, with each audit's gate outcome."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.formats import format_count, format_number, format_share
from sourcetrace.reporting.changes import format_moment
from sourcetrace.reporting.drawing import DIGITS, PER_CENT, Figure, across, draw, upwards
from sourcetrace.reporting.palette import Ink

_OUTCOMES = {
    "pass": (Ink.KEEP, "circle"),
    "warn": (Ink.CHECK, "triangle-up"),
    "inconclusive": (Ink.MUTED, "square"),
    "fail": (Ink.RELABEL, "diamond"),
}


@dataclass(frozen=True)
class _Line:
    """One measure in a chart: its name beside the last point, and how to read and say it."""

    name: str
    value: Callable[[AuditPoint], float | None]
    text: Callable[[float], str]
    dash: tuple[int, int] = (1, 0)


def trend_figures(points: Sequence[AuditPoint]) -> list[Figure]:
    """Return the charts; none of a first audit, nor of what was measured less than twice.

    Args:
        points: The audits, oldest first; the last is the one the page is about.
    """
    figures = [
        _trend(
            "trend-shares",
            "Suspect and harmful examples",
            "Solid: the share with a suggested action, which report.check_share bounds. Dashed: "
            "the share whose harm is certain, which nothing bounds.",
            (
                _Line("suspects", lambda p: p.suspect_share, format_share),
                _Line("harmful", lambda p: p.harmful_share, format_share, (5, 3)),
            ),
            points,
            above="share of the training examples",
            per_cent=True,
        ),
        _trend(
            "trend-query-loss",
            "Mean loss of the queries",
            "A rise says that the model is worse on them, or that they are other ones.",
            (_Line("loss", lambda p: p.mean_query_loss, format_number),),
            points,
            above="mean query loss",
        ),
        _trend(
            "trend-trust",
            "How far the scores were confirmed",
            "Rank correlation of predicted and retrained outcomes, of the audits whose scores a "
            "verification tested.",
            (_Line("trust", lambda p: p.trust_lds, format_number),),
            points,
            above="trust figure (LDS)",
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _trend(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[_Line],
    points: Sequence[AuditPoint],
    *,
    above: str,
    per_cent: bool = False,
) -> Figure | None:
    rows = [
        {
            "line": line.name,
            "ago": place - len(points) + 1,
            "value": line.value(point),
            "outcome": point.outcome,
        }
        for line in lines
        for place, point in enumerate(points)
    ]
    data = (
        pl.DataFrame(rows, schema_overrides={"value": pl.Float64}, infer_schema_length=None)
        .filter(pl.col("value").is_finite())
        .with_columns(pl.col("value").round_sig_figs(DIGITS))
    )
    if data["ago"].n_unique() < 2:  # noqa: PLR2004, a trend takes two
        return None
    x = across(
        "ago",
        "audits before this one",
        {"domain": [1 - len(points), 0], "padding": 14},
        format="d",
        values=_whole_ticks(len(points)),
        labelExpr="abs(datum.value)",
    )
    label = PER_CENT if per_cent else "format(datum.value, '~g')"
    y = upwards("value", {"zero": True}, tickCount=4, labelExpr=label)
    layers = [
        alt.Chart(data.filter(line=line.name))
        .mark_line(color=Ink.MUTED.light, strokeWidth=1.5, strokeDash=list(line.dash))
        .encode(x=x, y=y)
        for line in lines
    ]
    met = [outcome for outcome in _OUTCOMES if outcome in set(data["outcome"])]
    layers.append(
        alt.Chart(data)
        .mark_point(size=62, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "outcome:N",
                scale=alt.Scale(domain=met, range=[_OUTCOMES[one][0].light for one in met]),
            ),
            shape=alt.Shape(
                "outcome:N", scale=alt.Scale(domain=met, range=[_OUTCOMES[one][1] for one in met])
            ),
        )
    )
    return draw(
        name,
        title,
        f"{caption} The marks are the gate’s outcomes.",
        f"Line chart of {format_count(len(points))} audits since {format_moment(points[0].at)}; "
        + "; ".join(_course(line, points) for line in lines)
        + ".",
        layers,
        height=230,
        above=above,
    )


def _course(line: _Line, points: Sequence[AuditPoint]) -> str:
    known = [value for value in map(line.value, points) if value is not None]
    if not known:
        return f"{line.name} never measured"
    return f"{line.name} from {line.text(known[0])} to {line.text(known[-1])}"


def _whole_ticks(count: int) -> list[int]:
    """Return at most seven audits to write below the axis, this one among them."""
    every = -(-count // 6)
    return [-ago for ago in range(0, count, every)]
