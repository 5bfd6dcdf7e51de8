"""Charts of the suspects: harm beside plain loss, by given label, given against predicted.

What is drawn does not grow with the number of training examples: of many, the top suspects are
points, and as many of the others.
"""

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.formats import format_count, format_share
from sourcetrace.reporting.drawing import PER_CENT, Figure, Ink, across, marks_by, rule_at, upwards
from sourcetrace.schemas.review import is_suspect, labels_are_numbers

_POINTS = 300
_LABEL_BARS = 15
_CONFUSION_LABELS = 12

_LOOKS = {
    "remove": (Ink.VIOLET, "cross"),
    "relabel": (Ink.RELABEL, "diamond"),
    "review": (Ink.CHECK, "triangle-up"),
    "keep": (Ink.KEEP, "circle"),
}


def suspect_figures(review_list: pl.DataFrame, *, top_share: float) -> list[Figure]:
    """Return the charts for which there is something to draw.

    Args:
        review_list: `schemas.ReviewList`.
        top_share: The share of the highest losses that is marked off.
    """
    drawn = [_loss_and_harm(review_list, top_share=top_share)]
    if not labels_are_numbers(review_list):
        drawn += [_given_and_predicted(review_list), _suspects_per_label(review_list)]
    return [figure for figure in drawn if figure is not None]


def _loss_and_harm(review_list: pl.DataFrame, *, top_share: float) -> Figure | None:
    """Draw the harm to the queries against the example's own loss."""
    data = review_list.filter(pl.col("loss").is_finite(), pl.col("harm").is_finite())
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


def _suspects_per_label(review_list: pl.DataFrame) -> Figure | None:
    """Draw the share of suspects among the examples of every given label."""
    labels = (
        review_list.filter(pl.col("given_label").is_not_null())
        .group_by("given_label")
        .agg(examples=pl.len(), suspects=is_suspect().sum())
        .with_columns(share=pl.col("suspects") / pl.col("examples"))
        .sort(["suspects", "examples", "given_label"], descending=[True, True, False])
    )
    if labels.is_empty() or not labels["suspects"].sum():
        return None
    shown = labels.head(_LABEL_BARS).sort(
        ["share", "suspects", "given_label"], descending=[True, True, False]
    )
    notes = [
        f"{format_share(share)}  ({format_count(suspects)} of {format_count(examples)})"
        for share, suspects, examples in shown.select("share", "suspects", "examples").iter_rows()
    ]
    shown = shown.with_columns(note=pl.Series(notes))
    overall = float(review_list.select(is_suspect().mean()).item())
    top = float(shown["share"].max())  # type: ignore[arg-type]
    # Beyond the longest bar is room for the bars' own numbers, in one column.
    right = max(top, overall) * 1.6
    x = across(
        "share",
        "share of the label's examples that are suspect",
        {"domain": [0, right]},
        labelExpr=PER_CENT,
        values=_round_ticks(max(top, overall)),
    )
    y = alt.Y(
        "given_label:N",
        title=None,
        sort=shown["given_label"].to_list(),
        axis=alt.Axis(labelColor=Ink.INK.light),
    )
    bars = alt.Chart(shown)
    layers = [
        bars.mark_bar(color=Ink.RELABEL.light, opacity=0.8, height={"band": 0.66}).encode(x=x, y=y),
        bars.mark_text(align="right", fontSize=12, color=Ink.INK.light).encode(
            x=alt.datum(right), y=y, text="note:N"
        ),
        rule_at(x, overall),
    ]
    return Figure.draw(
        "suspects-per-label",
        layers,
        height=34 + 24 * shown.height + 26,
        above="given label",
        overall=overall,
        labels=labels.height,
        bars=_LABEL_BARS,
        first=shown.row(0, named=True),
    )


def _given_and_predicted(review_list: pl.DataFrame) -> Figure | None:
    """Draw how often each given label meets each predicted one among the suspects."""
    pairs = (
        review_list.filter(
            is_suspect(),
            pl.col("given_label").is_not_null(),
            pl.col("predicted_label").is_not_null(),
        )
        .group_by(given="given_label", predicted="predicted_label")
        .agg(count=pl.len())
        .sort(["count", "given", "predicted"], descending=[True, False, False])
    )
    if pairs.is_empty():
        return None
    frequent = (
        pairs.unpivot(["given", "predicted"], index="count", value_name="label")
        .group_by("label")
        .agg(pl.col("count").sum())
        .sort(["count", "label"], descending=[True, False])["label"]
    )
    labels = _natural_order(frequent.head(_CONFUSION_LABELS).to_list())
    shown = pairs.filter(pl.col("given").is_in(labels), pl.col("predicted").is_in(labels))
    if shown.is_empty():
        return None
    largest = float(shown["count"].max())  # type: ignore[arg-type]
    shown = shown.with_columns(opacity=0.12 + 0.5 * pl.col("count") / largest)
    x = alt.X(
        "predicted:N",
        title="predicted label",
        scale=alt.Scale(domain=labels),
        axis=alt.Axis(
            orient="bottom",
            labelAngle=0 if max(map(len, labels)) <= 3 else -45,  # noqa: PLR2004
            labelLimit=90,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y("given:N", title=None, scale=alt.Scale(domain=labels), axis=alt.Axis(grid=False))
    base = alt.Chart(shown).encode(x=x, y=y)
    layers = [
        base.mark_rect(color=Ink.RELABEL.light, cornerRadius=3).encode(
            # What a column has already.
            opacity=alt.Opacity("opacity:Q", scale=None, legend=None)
        ),
        base.mark_text(fontSize=12, color=Ink.INK.light).encode(text="count:Q"),
    ]
    return Figure.draw(
        "given-and-predicted",
        layers,
        height=90 + 26 * len(labels),
        above="given label",
        first=pairs.row(0, named=True),
        drawn=shown["count"].sum(),
        suspects=pairs["count"].sum(),
        labels=len(labels),
    )


def _decades(low: float, high: float, *, limit: int) -> list[float]:
    """Return powers of ten from `low` to `high`, thinned evenly to `limit` at most."""
    exponents = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    every = max(1, math.ceil(len(exponents) / limit))
    return [10.0**exponent for exponent in exponents[::-1][::every][::-1]]


def _round_ticks(top: float) -> list[float]:
    """Return 0 and at most five more multiples of 1, 2 or 5 times a power of ten, up to `top`."""
    size = 10.0 ** math.floor(math.log10(top))
    step = next(s for s in (size / 10, size / 5, size / 2, size, 2 * size) if top / s <= 5)  # noqa: PLR2004
    return [round(step * i, 12) for i in range(math.floor(top / step) + 1)]


def _signed_decades(values: np.ndarray, constant: float) -> list[float]:
    """Return 0 and powers of ten of either sign, up to the largest value of that sign."""
    ticks = [0.0]
    for sign in (-1, 1):
        largest = float((sign * values).max())
        if largest > constant:
            ticks += [sign * tick for tick in _decades(constant, largest * 1.3, limit=4)]
    return sorted(ticks)


def _natural_order(labels: Sequence[str]) -> list[str]:
    """Sort numbers as numbers, before words."""
    numbers = {label: float(label) for label in labels if label.isascii() and label.isdigit()}
    return sorted(labels, key=lambda label: (label not in numbers, numbers.get(label, 0.0), label))
