"""Charts over the last audits: shares, query loss, trust, with each audit's gate outcome."""

from collections.abc import Callable, Mapping, Sequence

import altair as alt
import polars as pl

from sourcetrace.audit.comparison.summary import AuditPoint
from sourcetrace.formats import format_count, format_number, format_share
from sourcetrace.reporting.changes import format_moment
from sourcetrace.reporting.drawing import DIGITS, PER_CENT, Figure, across, upwards
from sourcetrace.reporting.palette import Ink

_OUTCOMES = {
    "pass": (Ink.KEEP.light, "circle"),
    "warn": (Ink.CHECK.light, "triangle-up"),
    "inconclusive": (Ink.MUTED.light, "square"),
    "fail": (Ink.RELABEL.light, "diamond"),
}
_DASHES = ([1, 0], [5, 3])


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
            {"suspects": "suspect_share", "harmful": "harmful_share"},
            points,
            above="share of the training examples",
            text=format_share,
        ),
        _trend(
            "trend-query-loss",
            "Mean loss of the queries",
            "A rise says that the model is worse on them, or that they are other ones.",
            {"loss": "mean_query_loss"},
            points,
            above="mean query loss",
        ),
        _trend(
            "trend-trust",
            "How far the scores were confirmed",
            "Rank correlation of predicted and retrained outcomes, of the audits whose scores a "
            "verification tested.",
            {"trust": "trust_lds"},
            points,
            above="trust figure (LDS)",
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _trend(
    name: str,
    title: str,
    caption: str,
    lines: Mapping[str, str],
    points: Sequence[AuditPoint],
    *,
    above: str,
    text: Callable[[float], str] = format_number,
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
    label = PER_CENT if text is format_share else "format(datum.value, '~g')"
    y = upwards("value", {"zero": True}, tickCount=4, labelExpr=label)
    met = [outcome for outcome in _OUTCOMES if outcome in set(data["outcome"])]
    inks, shapes = zip(*(_OUTCOMES[outcome] for outcome in met), strict=True)
    layers = [
        alt.Chart(data.filter(line=line))
        .mark_line(color=Ink.MUTED.light, strokeWidth=1.5, strokeDash=dash)
        .encode(x=x, y=y)
        for line, dash in zip(values, _DASHES, strict=False)
    ]
    layers.append(
        alt.Chart(data)
        .mark_point(size=62, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("outcome:N", scale=alt.Scale(domain=met, range=inks)),
            shape=alt.Shape("outcome:N", scale=alt.Scale(domain=met, range=shapes)),
        )
    )
    courses = []
    for line, measured in values.items():
        known = [value for value in measured if value is not None]
        course = f"from {text(known[0])} to {text(known[-1])}" if known else "never measured"
        courses.append(f"{line} {course}")
    return Figure.draw(
        name,
        title,
        f"{caption} The marks are the gate’s outcomes.",
        f"Line chart of {format_count(len(points))} audits since {format_moment(points[0].at)}; "
        f"{'; '.join(courses)}.",
        layers,
        height=230,
        above=above,
    )
