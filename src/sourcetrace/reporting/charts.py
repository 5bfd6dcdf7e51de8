"""Charts of the suspects: harm beside plain loss, by given label, given against predicted.

Each takes the review list and returns a figure, or None where there is nothing to draw. What is
drawn does not grow with the number of training examples: they are counted in bins, and only the
top suspects are points of their own.
"""

import math
from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from sourcetrace.formats import format_count, format_noun, format_share
from sourcetrace.reporting.drawing import PER_CENT, Figure, across, rule_at, upwards
from sourcetrace.reporting.palette import Ink
from sourcetrace.schemas.review import ACTIONS, is_suspect

_POINTS = 300
_LABEL_BARS = 15
_CONFUSION_LABELS = 12
_BINS = (44, 32)

_SHAPES = alt.Scale(domain=list(ACTIONS), range=["diamond", "triangle-up", "circle"])
_INKS = alt.Scale(domain=list(ACTIONS), range=[Ink.RELABEL.light, Ink.CHECK.light, Ink.KEEP.light])

# What a column has already.
_OPACITY = alt.Opacity("opacity:Q", scale=None, legend=None)


def loss_and_harm(review_list: pl.DataFrame, *, top_share: float) -> Figure | None:
    """Draw the harm to the queries against the example's own loss.

    Args:
        review_list: `schemas.ReviewList`.
        top_share: The share of the highest losses that is marked off.
    """
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
    drawn = ("rank", "harm", pl.col("loss").clip(floor), pl.col("suggested_action").alias("action"))
    kept, marked = (data.filter(which).select(drawn) for which in (~is_suspect(), is_suspect()))
    layers: list[alt.Chart] = []
    if kept.height > _POINTS:
        bins = _bins(kept, floor=floor, ceiling=ceiling * 1.15, constant=constant)
        layers.append(
            alt.Chart(bins)
            .mark_rect(color=Ink.KEEP.light, stroke=None)
            .encode(x=x, x2="loss_end", y=y, y2="harm_end", opacity=_OPACITY)
        )
        points = marked.sort("rank").head(_POINTS)
    else:
        points = pl.concat([kept, marked.sort("rank").head(_POINTS)])
    threshold = float(np.sort(losses)[-math.ceil(top_share * len(losses))])
    layers.append(rule_at(x, max(threshold, floor)))
    layers.append(
        alt.Chart(points)
        .mark_point(size=46, strokeWidth=1.4, fillOpacity=0.25)
        .encode(
            x=x,
            y=y,
            color=alt.Color("action:N", scale=_INKS),
            fill=alt.Fill("action:N", scale=_INKS),
            shape=alt.Shape("action:N", scale=_SHAPES),
        )
    )
    left = marked.filter(pl.col("loss") < threshold).height
    caption = (
        "Above zero, the queries would gain from the removal. Right of the dashed line lie the "
        f"{format_share(top_share)} of examples with the highest loss, where a search by loss "
        "would look; suspects left of it are what attribution adds."
    )
    if kept.height > _POINTS:
        caption += " Examples to keep are shaded by how many lie in each cell."
    if marked.height > _POINTS:
        caption += (
            f" Drawn as points: the first {_POINTS} of {format_count(marked.height)} suspects."
        )
    return Figure.draw(
        "loss-and-harm",
        "Harm to the queries against plain loss",
        caption,
        f"Scatter plot of {format_noun(data.height, 'training example')}; "
        f"{format_count(left)} of {format_noun(marked.height, 'suspect')} lie left of the line.",
        layers,
        height=350,
        above="harm: predicted gain of the queries on removal",
        wide=True,
    )


def suspects_per_label(review_list: pl.DataFrame) -> Figure | None:
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
    shown = shown.with_columns(
        note=pl.Series(
            [
                f"{format_share(share)}  ({format_count(suspects)} of {format_count(examples)})"
                for share, suspects, examples in shown.select(
                    "share", "suspects", "examples"
                ).iter_rows()
            ]
        )
    )
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
    caption = (
        f"A label far beyond the dashed line ({format_share(overall)}, all labels together) hints "
        "at one cause, such as an ambiguous definition or one annotator."
    )
    if labels.height > _LABEL_BARS:
        caption += f" The {_LABEL_BARS} labels with most suspects of {format_count(labels.height)}."
    first = shown.row(0, named=True)
    return Figure.draw(
        "suspects-per-label",
        "Where the suspects are: by given label",
        caption,
        f"Bar chart; the highest share is label {first['given_label']} with {first['note']}.",
        layers,
        height=34 + 24 * shown.height + 26,
        above="given label",
    )


def given_and_predicted(review_list: pl.DataFrame) -> Figure | None:
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
        base.mark_rect(color=Ink.RELABEL.light, cornerRadius=3).encode(opacity=_OPACITY),
        base.mark_text(fontSize=12, color=Ink.INK.light).encode(text="count:Q"),
    ]
    first = pairs.row(0, named=True)
    caption = (
        "A pair that stands out is a confusion with one cause: settle the rule once, then "
        "correct its examples together."
    )
    drawn, total = int(shown["count"].sum()), int(pairs["count"].sum())
    if drawn < total:
        caption += (
            f" Drawn: {format_count(drawn)} of {format_noun(total, 'suspect')}, those among the "
            f"{len(labels)} most frequent labels."
        )
    return Figure.draw(
        "given-and-predicted",
        "Given against predicted label, suspects only",
        caption,
        f"Grid of counts; the most frequent pair is given {first['given']}, predicted "
        f"{first['predicted']}, {first['count']} times.",
        layers,
        height=90 + 26 * len(labels),
        above="given label",
    )


def _bins(points: pl.DataFrame, *, floor: float, ceiling: float, constant: float) -> pl.DataFrame:
    """Count points in the cells of a grid that is even on the chart's two scales."""
    x = np.log(points["loss"].to_numpy())
    harm = points["harm"].to_numpy()
    y = np.sign(harm) * np.log1p(np.abs(harm) / constant)
    x_edges = np.linspace(math.log(floor), math.log(ceiling), _BINS[0] + 1)
    low, high = float(y.min()), float(y.max())
    y_edges = np.linspace(low, high if high > low else low + 1, _BINS[1] + 1)
    counts, _, _ = np.histogram2d(x, y, bins=[x_edges, y_edges])
    columns, rows = np.nonzero(counts)
    filled = counts[columns, rows]

    def harm_at(edge: np.ndarray) -> np.ndarray:
        return np.asarray(np.sign(edge) * constant * np.expm1(np.abs(edge)))

    return pl.DataFrame(
        {
            "loss": np.exp(x_edges[columns]),
            "loss_end": np.exp(x_edges[columns + 1]),
            "harm": harm_at(y_edges[rows]),
            "harm_end": harm_at(y_edges[rows + 1]),
            # The square root keeps single examples visible beside full cells.
            "opacity": (0.12 + 0.75 * np.sqrt(filled / filled.max())).round(3),
        }
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
