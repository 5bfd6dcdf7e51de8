"""Charts over the course of training: where the harm arose, how the loss fell.

Examples are drawn as two groups, suspects and all others, so that a chart does not grow with
their number.
"""

import altair as alt
import polars as pl

from sourcetrace.formats import format_noun, format_number, format_span
from sourcetrace.reporting.drawing import DIGITS, Figure, across, rule_at, upwards
from sourcetrace.reporting.palette import Ink
from sourcetrace.schemas.review import is_suspect

_GROUPS = ["suspects", "all others"]
_COLOUR = alt.Color(
    "group:N", scale=alt.Scale(domain=_GROUPS, range=[Ink.RELABEL.light, Ink.KEEP.light])
)
# The difference is not left to colour.
_SHAPE = alt.Shape("group:N", scale=alt.Scale(domain=_GROUPS, range=["diamond", "circle"]))


def segment_contributions(
    contributions: pl.DataFrame, review_list: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> Figure | None:
    """Draw in which part of training the suspects' harm to the queries arose."""
    if contributions.is_empty():
        return None
    data = (
        contributions.join(_groups_of(review_list), on="example_id")
        .group_by("segment", "group")
        # Threads add in any order; the digits beyond these would differ from run to run.
        .agg(mean=pl.col("harm").mean().round_sig_figs(DIGITS))
        .sort("segment", "group")
    )
    several = [name for name in ("run", "stage") if checkpoint_manifest[name].n_unique() > 1]
    spans = checkpoint_manifest.group_by("segment").agg(
        pl.col("run", "stage").first(), first=pl.col("step").min(), last=pl.col("step").max()
    )
    names = {
        row["segment"]: " · ".join(
            [
                str(row["segment"]),
                *(row[name] for name in several),
                format_span(row["first"], row["last"]),
            ]
        )
        for row in spans.iter_rows(named=True)
    }
    data = data.filter(pl.col("mean").is_finite()).with_columns(
        name=pl.col("segment").replace_strict(
            names, default=pl.format("segment {}", "segment"), return_dtype=pl.String
        )
    )
    if data.is_empty():
        return None
    order = list(dict.fromkeys(data["name"]))
    y = alt.Y(
        "name:N", title=None, sort=order, axis=alt.Axis(labelColor=Ink.INK.light, labelLimit=160)
    )
    lowest, highest = map(float, (data["mean"].min(), data["mean"].max()))  # type: ignore[arg-type]
    extent = max(abs(lowest), abs(highest)) or 1.0
    x = across(
        "mean",
        "mean harm of an example",
        {"domain": [min(lowest, 0) - 0.06 * extent, max(highest, 0) + 0.06 * extent]},
        format="~g" if 0.01 <= extent < 1e6 else "~e",  # noqa: PLR2004
        tickCount=4,
        domain=False,
        grid=True,
    )
    layers = [
        rule_at(x, 0.0, strokeDash=[1, 0]),
        alt.Chart(data)
        .mark_rule(color=Ink.MUTED.light, strokeWidth=2, opacity=0.5)
        .encode(x=alt.X("min(mean):Q"), x2="max(mean):Q", y=y),
        alt.Chart(data)
        .mark_point(size=80, filled=True, opacity=1)
        .encode(x=x, y=y, color=_COLOUR, shape=_SHAPE),
    ]
    return Figure.draw(
        "segment-contributions",
        "When in training the harm arose",
        "The further right of zero, the more of the harm to the queries was learnt in that "
        "segment; an example's segments add up to its harm.",
        f"Dot plot of {format_noun(len(order), 'segment')}, suspects against all others; the "
        f"same numbers stand in the table of segments.",
        layers,
        height=96 + 30 * len(order),
        above=" · ".join(["segment", *several, "steps"]),
    )


def loss_over_training(
    example_signals: pl.DataFrame, review_list: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> Figure | None:
    """Draw median and quartiles of the loss at every checkpoint, suspects against the rest.

    Checkpoints of several training runs at the same step are drawn as one.
    """
    steps = dict(checkpoint_manifest.select("checkpoint_id", "step").iter_rows())
    points = example_signals["checkpoint_id"].unique(maintain_order=True).to_list()
    # A point at the mean of several checkpoints' weights is named 'a+b' and lies between them.
    places = {point: _mean_step(point, steps) for point in points}
    known = all(place is not None for place in places.values())
    positions = {
        point: places[point] if known else float(index) for index, point in enumerate(points)
    }
    data = (
        example_signals.lazy()
        .select("example_id", "checkpoint_id", "loss")
        .filter(pl.col("loss").is_finite())
        .join(_groups_of(review_list).lazy(), on="example_id")
        .with_columns(
            position=pl.col("checkpoint_id").replace_strict(positions, return_dtype=pl.Float64)
        )
        .group_by("position", "group")
        .agg(
            median=pl.col("loss").median(),
            lower=pl.col("loss").quantile(0.25, "linear"),
            upper=pl.col("loss").quantile(0.75, "linear"),
        )
        .with_columns(pl.col("median", "lower", "upper").round_sig_figs(DIGITS))
        .collect()
        .sort("position", "group")
    )
    if data.is_empty():
        return None
    places_drawn = len(set(positions.values()))
    several = places_drawn > 1
    x = across(
        "position",
        "optimiser step" if known else "evaluation point, in the table's order",
        {"zero": False, "padding": 10},
        tickCount=6,
        format="~s" if known else "d",
    )
    base = alt.Chart(data).encode(x=x, color=_COLOUR)
    spread = (
        base.mark_area(opacity=0.18, line=False)
        if several
        else base.mark_rule(opacity=0.5, strokeWidth=6)
    ).encode(y=upwards("lower", {}, tickCount=5, format="~g"), y2="upper:Q")
    # Dashes as an encoding would draw the legend's symbols dashed.
    lines = [
        alt.Chart(data.filter(group=group))
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x=x, y="median:Q", color=_COLOUR)
        for group, dash in zip(_GROUPS, ([1, 0], [5, 3]), strict=True)
        if several
    ]
    medians_drawn = base.mark_point(size=44, filled=True, opacity=1).encode(
        y="median:Q", shape=_SHAPE
    )
    last = data.filter(pl.col("position") == data["position"].max())
    medians = ", ".join(
        f"{group} {format_number(median)}"
        for group, median in last.select("group", "median").iter_rows()
    )
    return Figure.draw(
        "loss-over-training",
        "Loss over training, suspects against the rest",
        "Wrong labels are learnt late and by heart: their line stays high while the others' "
        "falls. Lines that run together say the suspects are not simply hard to fit."
        if several
        else "One evaluation point only, so there is no course to see: compare the two groups.",
        f"Median and quartiles of the loss at {format_noun(places_drawn, 'evaluation point')}; "
        f"medians at the last: {medians}.",
        [spread, *lines, medians_drawn],
        height=270,
        above="loss: median, 25 % to 75 % shaded",
    )


def _groups_of(review_list: pl.DataFrame) -> pl.DataFrame:
    """Return example_id and group, one of `_GROUPS`."""
    suspects, rest = map(pl.lit, _GROUPS)
    return review_list.select(
        "example_id", group=pl.when(is_suspect()).then(suspects).otherwise(rest)
    )


def _mean_step(point: str, steps: dict[str, int]) -> float | None:
    parts = [point] if point in steps else point.split("+")
    if not all(part in steps for part in parts):
        return None
    return sum(steps[part] for part in parts) / len(parts)
