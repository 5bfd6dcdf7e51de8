"""Charts of the suspects: harm beside plain loss, and over the course of training.

What is drawn does not grow with the number of training examples: of many, the top suspects are
points, and as many of the others; over training, examples are two groups.
"""

import math

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.formats import format_span
from sourcetrace.reporting.drawing import DIGITS, Figure, across, marks_by, rule_at, upwards
from sourcetrace.reporting.templating import Ink
from sourcetrace.schemas.review import is_suspect

_POINTS = 300

_LOOKS = {
    "remove": (Ink.VIOLET, "cross"),
    "relabel": (Ink.RELABEL, "diamond"),
    "review": (Ink.CHECK, "triangle-up"),
    "keep": (Ink.KEEP, "circle"),
}

_GROUPS = ["suspects", "all others"]
_MARKS = marks_by(
    "group", dict(zip(_GROUPS, ((Ink.RELABEL, "diamond"), (Ink.KEEP, "circle")), strict=True))
)


def suspect_figures(
    review_list: pl.DataFrame,
    example_signals: pl.LazyFrame,
    contributions: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    *,
    top_share: float,
) -> list[Figure]:
    """Return the charts for which there is something to draw.

    Args:
        review_list: `schemas.ReviewList`.
        example_signals: `schemas.ExampleSignals`.
        contributions: `schemas.SegmentContributions`.
        checkpoint_manifest: `schemas.CheckpointManifest`.
        top_share: The share of the highest losses that is marked off.
    """
    drawn = (
        _loss_and_harm(review_list, top_share=top_share),
        _loss_over_training(example_signals, review_list, checkpoint_manifest),
        _segment_contributions(contributions, review_list, checkpoint_manifest),
    )
    return [figure for figure in drawn if figure is not None]


def _loss_and_harm(review_list: pl.DataFrame, *, top_share: float) -> Figure | None:
    """Draw the harm to the queries against the example's own loss."""
    data = review_list.select("rank", "harm", "loss", "suggested_action", "decision").filter(
        pl.col("loss").is_finite(), pl.col("harm").is_finite()
    )
    if data.is_empty():
        return None
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
    return Figure.draw(
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


def _segment_contributions(
    contributions: pl.DataFrame, review_list: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> Figure | None:
    """Draw in which part of training the suspects' harm to the queries arose."""
    if contributions.is_empty():
        return None
    data = (
        contributions.group_by("segment", group=_group_in(review_list))
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
    example_signals: pl.LazyFrame, review_list: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> Figure | None:
    """Draw median and quartiles of the loss at every checkpoint, suspects against the rest.

    Checkpoints of several training runs at the same step are drawn as one.
    """
    steps = dict(checkpoint_manifest.select("checkpoint_id", "step").iter_rows())
    signals = example_signals.lazy()
    found = signals.select(pl.col("checkpoint_id").unique(maintain_order=True)).collect()
    points = found["checkpoint_id"].to_list()
    if not points:
        return None
    # A point at the mean of several checkpoints' weights is named 'a+b' and lies between them.
    places = {point: _mean_step(point, steps) for point in points}
    known = all(place is not None for place in places.values())
    positions = {
        point: places[point] if known else float(index) for index, point in enumerate(points)
    }
    group = _group_in(review_list)
    # A place at a time: all at once are many rows.
    data = pl.concat(
        signals.filter(
            pl.col("checkpoint_id").is_in([one for one in points if positions[one] == position]),
            pl.col("loss").is_finite(),
        )
        .group_by(group=group, position=pl.lit(position, pl.Float64))
        .agg(
            median=pl.col("loss").median(),
            lower=pl.col("loss").quantile(0.25, "linear"),
            upper=pl.col("loss").quantile(0.75, "linear"),
        )
        .with_columns(pl.col("median", "lower", "upper").round_sig_figs(DIGITS))
        .collect()
        for position in set(positions.values())
    ).sort("position", "group")
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


def _group_in(review_list: pl.DataFrame) -> pl.Expr:
    """Return which of `_GROUPS` an example_id belongs to."""
    suspects, rest = map(pl.lit, _GROUPS)
    listed = review_list.filter(is_suspect())["example_id"].implode()
    return pl.when(pl.col("example_id").is_in(listed)).then(suspects).otherwise(rest)


def _mean_step(point: str, steps: dict[str, int]) -> float | None:
    parts = [point] if point in steps else point.split("+")
    if not all(part in steps for part in parts):
        return None
    return sum(steps[part] for part in parts) / len(parts)
