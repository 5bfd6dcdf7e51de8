"""Charts over the course of training: where the harm arose, how the loss fell.

Examples are drawn as two groups, suspects and all others, so that a chart does not grow with
their number.
"""

import altair as alt
import polars as pl

from sourcetrace.formats import format_span
from sourcetrace.reporting.drawing import DIGITS, Figure, Ink, across, marks_by, rule_at, upwards
from sourcetrace.schemas.review import is_suspect

_GROUPS = ["suspects", "all others"]
_MARKS = marks_by(
    "group", dict(zip(_GROUPS, ((Ink.RELABEL, "diamond"), (Ink.KEEP, "circle")), strict=True))
)


def training_figures(
    example_signals: pl.DataFrame,
    contributions: pl.DataFrame,
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
) -> list[Figure]:
    """Return the charts for which there is something to draw.

    Args:
        example_signals: `schemas.ExampleSignals`.
        contributions: `schemas.SegmentContributions`.
        review_list: `schemas.ReviewList`.
        checkpoint_manifest: `schemas.CheckpointManifest`.
    """
    drawn = (
        _loss_over_training(example_signals, review_list, checkpoint_manifest),
        _segment_contributions(contributions, review_list, checkpoint_manifest),
    )
    return [figure for figure in drawn if figure is not None]


def _segment_contributions(
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
    step = pl.col("step")
    spans = checkpoint_manifest.group_by("segment").agg(
        step.min().alias("first"), step.max().alias("last"), pl.col(several).first()
    )
    names = {
        segment: " · ".join([str(segment), *where, format_span(first, last)])
        for segment, first, last, *where in spans.iter_rows()
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
        alt.Chart(data).mark_point(size=80, filled=True, opacity=1).encode(x=x, y=y, **_MARKS),
    ]
    return Figure.draw(
        "segment-contributions",
        layers,
        height=96 + 30 * len(order),
        above=" · ".join(["segment", *several, "steps"]),
        segments=len(order),
    )


def _loss_over_training(
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
    base = alt.Chart(data).encode(x=x, color=_MARKS["color"])
    spread = (
        base.mark_area(opacity=0.18, line=False)
        if several
        else base.mark_rule(opacity=0.5, strokeWidth=6)
    ).encode(y=upwards("lower", {}, tickCount=5, format="~g"), y2="upper:Q")
    # Dashes as an encoding would draw the legend's symbols dashed.
    lines = [
        alt.Chart(data.filter(group=group))
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x=x, y="median:Q", color=_MARKS["color"])
        for group, dash in zip(_GROUPS, ([1, 0], [5, 3]), strict=True)
        if several
    ]
    medians_drawn = base.mark_point(size=44, filled=True, opacity=1).encode(
        y="median:Q", shape=_MARKS["shape"]
    )
    last = data.filter(pl.col("position") == data["position"].max())
    return Figure.draw(
        "loss-over-training",
        [spread, *lines, medians_drawn],
        height=270,
        above="loss: median, 25 % to 75 % shaded",
        points=places_drawn,
        medians=dict(last.select("group", "median").iter_rows()),
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
