"""Charts as static SVG text: drawn here, offline, readable without a script.

Every function takes a table of the audit and returns a figure, or None where there is nothing
to draw. What is drawn does not grow with the number of training examples: they are counted in
bins, or in quantiles, and only the top suspects are points of their own.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from sourcetrace.reporting import palette
from sourcetrace.reporting.findings import TOP_SHARE, is_suspect
from sourcetrace.reporting.formats import format_count, format_noun, format_number, format_share

WIDTH = 410
WIDE = 470
POINTS = 300
LABEL_BARS = 15
CONFUSION_LABELS = 12
CURVE_POINTS = 200
# Nobody inspects more than half of the data to find errors in it.
CURVE_END = 0.5
_BINS = (44, 32)

# The page writes a space before the sign, and so do the axes.
_PER_CENT = "format(100 * datum.value, '~g') + '\u00a0%'"

_ACTIONS = ["relabel", "check", "keep"]
_SHAPES = ["diamond", "triangle-up", "circle"]
_INKS = [palette.RELABEL.light, palette.CHECK.light, palette.KEEP.light]

_SUSPECTS, _REST = "suspects", "all others"
_GROUPS = [_SUSPECTS, _REST]
_GROUP_INKS = [palette.RELABEL.light, palette.KEEP.light]

_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "axis": {
        "domainColor": palette.RULE.light,
        "gridColor": palette.RULE.light,
        "tickColor": palette.RULE.light,
        "labelColor": palette.MUTED.light,
        "titleColor": palette.MUTED.light,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelLimit": 120,
        "labelPadding": 5,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": palette.INK.light,
        "labelFontSize": 12,
        "labelLimit": 190,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
        "offset": 6,
    },
    "title": {
        "anchor": "start",
        "frame": "bounds",
        "color": palette.MUTED.light,
        "fontSize": 12,
        "fontWeight": "normal",
        "offset": 6,
    },
}


@dataclass(frozen=True)
class Figure:
    """A chart with its words.

    Attributes:
        name: Unique in the page; prefixes the SVG's ids.
        title: What is drawn.
        caption: What to look for.
        description: What a reader who cannot see it should know.
        svg: The drawing, safe to put into a page.
    """

    name: str
    title: str
    caption: str
    description: str
    svg: str


def loss_and_influence(review_list: pl.DataFrame) -> Figure | None:
    """Draw the influence on the queries' loss against the example's own loss."""
    data = review_list.filter(
        pl.col("loss").is_finite(), pl.col("total_query_loss_influence").is_finite()
    )
    if data.is_empty():
        return None
    losses = data.get_column("loss").to_numpy()
    influences = data.get_column("total_query_loss_influence").to_numpy()
    ceiling = max(float(losses.max()), 1e-12)
    floor = min(max(float(np.quantile(losses, 0.02)), ceiling * 1e-6), ceiling / 10)
    largest = float(np.abs(influences).max()) or 1.0
    sizes = np.abs(influences[influences != 0])
    # Linear up to the constant, logarithmic beyond.
    constant = max(float(np.quantile(sizes, 0.5)) if sizes.size else 1.0, largest * 1e-4)

    x = alt.X(
        "loss:Q",
        title="loss of the example at the final checkpoint (log scale)",
        scale=alt.Scale(type="log", domain=[floor, ceiling * 1.15], nice=False, clamp=True),
        axis=alt.Axis(values=_decades(floor, ceiling * 1.15, limit=7), format="~g", grid=False),
    )
    y = alt.Y(
        "influence:Q",
        title=None,
        scale=alt.Scale(
            type="symlog",
            constant=constant,
            domain=[min(float(influences.min()) * 1.3, 0), max(float(influences.max()) * 1.3, 0)],
            nice=False,
        ),
        axis=alt.Axis(
            values=_signed_decades(influences, constant), format="~g", domain=False, ticks=False
        ),
    )
    drawn = data.select(
        "rank",
        pl.col("loss").clip(floor),
        influence="total_query_loss_influence",
        action="suggested_action",
    )
    kept, marked = drawn.filter(action="keep"), drawn.filter(pl.col("action") != "keep")
    layers: list[alt.Chart] = []
    if kept.height > POINTS:
        bins = _bins(kept, floor=floor, ceiling=ceiling * 1.15, constant=constant)
        layers.append(
            alt.Chart(bins)
            .mark_rect(color=palette.KEEP.light, stroke=None)
            .encode(x=x, x2="loss_end", y=y, y2="influence_end", opacity=_as_is("opacity"))
        )
        points = marked.sort("rank").head(POINTS)
    else:
        points = pl.concat([kept, marked.sort("rank").head(POINTS)])
    threshold = float(np.sort(losses)[-math.ceil(TOP_SHARE * len(losses))])
    layers.append(
        alt.Chart(pl.DataFrame({"loss": [max(threshold, floor)]}))
        .mark_rule(color=palette.MUTED.light, strokeDash=[4, 3])
        .encode(x=x)
    )
    layers.append(
        alt.Chart(points)
        .mark_point(size=46, strokeWidth=1.4, fillOpacity=0.25)
        .encode(
            x=x,
            y=y,
            color=alt.Color("action:N", scale=alt.Scale(domain=_ACTIONS, range=_INKS)),
            fill=alt.Fill("action:N", scale=alt.Scale(domain=_ACTIONS, range=_INKS)),
            shape=alt.Shape("action:N", scale=alt.Scale(domain=_ACTIONS, range=_SHAPES)),
        )
    )
    left = marked.filter(pl.col("loss") < threshold).height
    caption = (
        "Below zero, the queries would gain from the removal. Right of the dashed line lie the "
        f"{format_share(TOP_SHARE)} of examples with the highest loss, where a search by loss "
        "would look; suspects left of it are what the influence adds."
    )
    if kept.height > POINTS:
        caption += " Examples to keep are shaded by how many lie in each cell."
    if marked.height > POINTS:
        caption += (
            f" Drawn as points: the first {POINTS} of {format_count(marked.height)} suspects."
        )
    return _figure(
        "loss-and-influence",
        "Influence on the queries against plain loss",
        caption,
        f"Scatter plot of {format_noun(data.height, 'training example')}; "
        f"{format_count(left)} of {format_noun(marked.height, 'suspect')} lie left of the line.",
        alt.layer(*layers).properties(
            height=350, title="predicted change of the queries' summed loss on removal"
        ),
        width=WIDE,
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
    if labels.is_empty() or not labels.get_column("suspects").sum():
        return None
    shown = labels.head(LABEL_BARS).sort(
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
    top = float(shown.get_column("share").max())  # type: ignore[arg-type]
    # Beyond the longest bar is room for the bars' own numbers, in one column.
    right = max(top, overall) * 1.6
    x = alt.X(
        "share:Q",
        title="share of the label's examples that are suspect",
        scale=alt.Scale(domain=[0, right], nice=False),
        axis=alt.Axis(labelExpr=_PER_CENT, grid=False, values=_round_ticks(max(top, overall))),
    )
    y = alt.Y(
        "given_label:N",
        title=None,
        sort=shown.get_column("given_label").to_list(),
        axis=alt.Axis(ticks=False, domain=False, labelColor=palette.INK.light),
    )
    bars = alt.Chart(shown)
    chart = alt.layer(
        bars.mark_bar(color=palette.RELABEL.light, opacity=0.8, height={"band": 0.66}).encode(
            x=x, y=y
        ),
        bars.mark_text(align="right", fontSize=12, color=palette.INK.light).encode(
            x=alt.datum(right), y=y, text="note:N"
        ),
        alt.Chart(pl.DataFrame({"share": [overall]}))
        .mark_rule(color=palette.MUTED.light, strokeDash=[4, 3])
        .encode(x=x),
    ).properties(height=34 + 24 * shown.height + 26, title="given label")
    caption = (
        f"A label far beyond the dashed line ({format_share(overall)}, all labels together) hints "
        "at one cause, such as an ambiguous definition or one annotator."
    )
    if labels.height > LABEL_BARS:
        caption += f" The {LABEL_BARS} labels with most suspects of {format_count(labels.height)}."
    first = shown.row(0, named=True)
    return _figure(
        "suspects-per-label",
        "Where the suspects are: by given label",
        caption,
        f"Bar chart; the highest share is label {first['given_label']} with {first['note']}.",
        chart,
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
    both = pl.concat(
        [
            pairs.select("count", label="given"),
            pairs.select("count", label="predicted"),
        ]
    )
    frequent = (
        both.group_by("label")
        .agg(pl.col("count").sum())
        .sort(["count", "label"], descending=[True, False])
        .get_column("label")
    )
    labels = _natural_order(frequent.head(CONFUSION_LABELS).to_list())
    shown = pairs.filter(pl.col("given").is_in(labels), pl.col("predicted").is_in(labels))
    if shown.is_empty():
        return None
    largest = float(shown.get_column("count").max())  # type: ignore[arg-type]
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
            grid=False,
        ),
    )
    y = alt.Y(
        "given:N",
        title=None,
        scale=alt.Scale(domain=labels),
        axis=alt.Axis(ticks=False, domain=False, grid=False),
    )
    base = alt.Chart(shown).encode(x=x, y=y)
    chart = alt.layer(
        base.mark_rect(color=palette.RELABEL.light, cornerRadius=3).encode(
            opacity=_as_is("opacity")
        ),
        base.mark_text(fontSize=12, color=palette.INK.light).encode(text="count:Q"),
    ).properties(height=90 + 26 * len(labels), title="given label")
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
    return _figure(
        "given-and-predicted",
        "Given against predicted label, suspects only",
        caption,
        f"Grid of counts; the most frequent pair is given {first['given']}, predicted "
        f"{first['predicted']}, {first['count']} times.",
        chart,
    )


def segment_contributions(
    contributions: pl.DataFrame,
    review_list: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    *,
    queries: int,
) -> Figure | None:
    """Draw in which part of training the suspects' influence on the queries arose.

    Influence on the mean loss times `queries` is on the sum, as the review list has it.
    """
    if contributions.is_empty():
        return None
    data = (
        contributions.join(_groups(review_list), on="example_id")
        .group_by("segment", "group")
        .agg(mean=pl.col("mean_query_loss_influence").mean() * queries)
        .sort("segment", "group")
    )
    steps = {
        segment: (stage, first, last)
        for segment, stage, first, last in checkpoint_manifest.group_by("segment")
        .agg(
            pl.col("stage").first(),
            first=pl.col("step").min(),
            last=pl.col("step").max(),
        )
        .iter_rows()
    }

    several_stages = checkpoint_manifest.get_column("stage").n_unique() > 1

    def name(segment: int) -> str:
        if segment not in steps:
            return f"segment {segment}"
        stage, first, last = steps[segment]
        span = f"{first:,}" if first == last else f"{first:,}–{last:,}"
        return f"{segment} · {stage} · {span}" if several_stages else f"{segment} · {span}"

    data = data.with_columns(
        name=pl.col("segment").map_elements(name, return_dtype=pl.String)
    ).filter(pl.col("mean").is_finite())
    if data.is_empty():
        return None
    order = list(dict.fromkeys(data.get_column("name").to_list()))
    y = alt.Y(
        "name:N",
        title=None,
        sort=order,
        axis=alt.Axis(ticks=False, domain=False, labelColor=palette.INK.light, labelLimit=160),
    )
    extent = data.get_column("mean").abs().max() or 1.0
    x = alt.X(
        "mean:Q",
        title="mean per example: change of the queries' summed loss",
        scale=alt.Scale(
            domain=[
                min(float(data["mean"].min()), 0) - 0.06 * float(extent),  # type: ignore[arg-type]
                max(float(data["mean"].max()), 0) + 0.06 * float(extent),  # type: ignore[arg-type]
            ],
            nice=False,
        ),
        axis=alt.Axis(
            format="~g" if 0.01 <= float(extent) < 1e6 else "~e",  # type: ignore[arg-type] # noqa: PLR2004
            tickCount=4,
            domain=False,
        ),
    )
    chart = alt.layer(
        alt.Chart(pl.DataFrame({"mean": [0.0]})).mark_rule(color=palette.MUTED.light).encode(x=x),
        alt.Chart(data)
        .mark_rule(color=palette.MUTED.light, strokeWidth=2, opacity=0.5)
        .encode(x=alt.X("min(mean):Q"), x2="max(mean):Q", y=y),
        alt.Chart(data)
        .mark_point(size=80, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            color=_group_colour(),
            shape=alt.Shape(
                "group:N", scale=alt.Scale(domain=_GROUPS, range=["diamond", "circle"])
            ),
        ),
    ).properties(
        height=96 + 30 * len(order),
        title="segment · stage · steps" if several_stages else "segment · steps",
    )
    return _figure(
        "segment-contributions",
        "When in training the influence arose",
        "The further left of zero, the more of the harm to the queries was learnt in that "
        "segment; an example's segments add up to its score.",
        f"Dot plot of {format_noun(len(order), 'segment')}, suspects against all others; the "
        f"same numbers stand in the table of segments.",
        chart,
    )


def loss_over_training(
    example_signals: pl.DataFrame, review_list: pl.DataFrame, checkpoint_manifest: pl.DataFrame
) -> Figure | None:
    """Draw median and quartiles of the loss at every checkpoint, suspects against the rest."""
    steps = dict(checkpoint_manifest.select("checkpoint_id", "step").iter_rows())
    points = example_signals.get_column("checkpoint_id").unique(maintain_order=True).to_list()
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
        .join(_groups(review_list).lazy(), on="example_id")
        .group_by("checkpoint_id", "group")
        .agg(
            median=pl.col("loss").median(),
            lower=pl.col("loss").quantile(0.25, "linear"),
            upper=pl.col("loss").quantile(0.75, "linear"),
        )
        .collect()
        .with_columns(
            position=pl.col("checkpoint_id").replace_strict(positions, return_dtype=pl.Float64)
        )
        .sort("position", "group")
    )
    if data.is_empty():
        return None
    several = len(points) > 1
    x = alt.X(
        "position:Q",
        title="optimiser step" if known else "evaluation point, in the table's order",
        scale=alt.Scale(zero=False, nice=False, padding=10),
        axis=alt.Axis(grid=False, tickCount=6, format="~s" if known else "d"),
    )
    y_axis = alt.Axis(tickCount=5, domain=False, ticks=False, format="~g")
    base = alt.Chart(data).encode(x=x, color=_group_colour())
    spread = (
        base.mark_area(opacity=0.18, line=False)
        if several
        else base.mark_rule(opacity=0.5, strokeWidth=6)
    ).encode(y=alt.Y("lower:Q", title=None, axis=y_axis), y2="upper:Q")
    shape = alt.Shape("group:N", scale=alt.Scale(domain=_GROUPS, range=["diamond", "circle"]))
    # Dashes as an encoding would draw the legend's symbols dashed.
    lines = [
        alt.Chart(data.filter(group=group))
        .mark_line(strokeWidth=2, strokeDash=dash)
        .encode(x=x, y="median:Q", color=_group_colour())
        for group, dash in zip(_GROUPS, ([1, 0], [5, 3]), strict=True)
        if several
    ]
    medians_drawn = base.mark_point(size=44, filled=True, opacity=1).encode(
        y="median:Q", shape=shape
    )
    last = data.filter(pl.col("position") == data.get_column("position").max())
    medians = ", ".join(
        f"{group} {format_number(median)}"
        for group, median in last.select("group", "median").iter_rows()
    )
    return _figure(
        "loss-over-training",
        "Loss over training, suspects against the rest",
        "Wrong labels are learnt late and by heart: their line stays high while the others' "
        "falls. Lines that run together say the suspects are not simply hard to fit."
        if several
        else "One evaluation point only, so there is no course to see: compare the two groups.",
        f"Median and quartiles of the loss at {format_noun(len(points), 'evaluation point')}; "
        f"medians at the last: {medians}.",
        alt.layer(spread, *lines, medians_drawn).properties(
            height=270, title="loss: median, 25 % to 75 % shaded"
        ),
    )


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
        axis=alt.Axis(labelExpr=_PER_CENT, grid=False, tickCount=6),
    )
    y = alt.Y(
        "found_share:Q",
        title=None,
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(labelExpr=_PER_CENT, tickCount=6, domain=False, ticks=False),
    )
    chance = pl.DataFrame({"inspected_share": [0.0, CURVE_END], "found_share": [0.0, CURVE_END]})
    chart = alt.layer(
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
                legend=alt.Legend(columns=2, symbolSize=400),
            ),
            strokeDash=alt.StrokeDash("ranking:N", scale=alt.Scale(domain=rankings, range=dashes)),
        ),
    ).properties(
        height=300 + 18 * math.ceil(len(rankings) / 2), title="share of the planted errors found"
    )
    return _figure(
        "recall-curve",
        "How early each ranking finds the planted errors",
        f"Higher at the dashed line (the first {format_share(TOP_SHARE)}) is better: that is the "
        "part a person will really look at. The pale line is a random order; only the first "
        f"{format_share(CURVE_END)} of the examples are drawn.",
        "Line chart of recall against the share inspected; the table has the numbers.",
        chart,
    )


def _figure(
    name: str,
    title: str,
    caption: str,
    description: str,
    chart: alt.LayerChart,
    *,
    width: int = WIDTH,
) -> Figure:
    return Figure(name, title, caption, description, _svg(chart, name, width))


def _svg(chart: alt.LayerChart, name: str, width: int) -> str:
    """Draw a chart; ids get the chart's name, since the renderer counts them over its lifetime."""
    spec = chart.properties(
        width=width, autosize=alt.AutoSizeParams(type="fit", contains="padding"), padding=4
    ).to_dict()
    spec["config"] = _CONFIG
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    ids = dict.fromkeys(re.findall(r'<clipPath id="([^"]+)"', svg))
    for number, old in enumerate(ids, start=1):
        svg = svg.replace(f'<clipPath id="{old}"', f'<clipPath id="{name}-{number}"')
        svg = svg.replace(f'clip-path="url(#{old})"', f'clip-path="url(#{name}-{number})"')
    # The page says what the drawing shows.
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', svg, count=1)


def _groups(review_list: pl.DataFrame) -> pl.DataFrame:
    return review_list.select(
        "example_id",
        group=pl.when(is_suspect()).then(pl.lit(_SUSPECTS)).otherwise(pl.lit(_REST)),
    )


def _group_colour() -> alt.Color:
    return alt.Color("group:N", scale=alt.Scale(domain=_GROUPS, range=_GROUP_INKS))


def _as_is(column: str) -> alt.Opacity:
    return alt.Opacity(f"{column}:Q", scale=None, legend=None)


def _bins(points: pl.DataFrame, *, floor: float, ceiling: float, constant: float) -> pl.DataFrame:
    """Count points in the cells of a grid that is even on the chart's two scales."""
    x = np.log(points.get_column("loss").to_numpy())
    influence = points.get_column("influence").to_numpy()
    y = np.sign(influence) * np.log1p(np.abs(influence) / constant)
    x_edges = np.linspace(math.log(floor), math.log(ceiling), _BINS[0] + 1)
    low, high = float(y.min()), float(y.max())
    y_edges = np.linspace(low, high if high > low else low + 1, _BINS[1] + 1)
    counts, _, _ = np.histogram2d(x, y, bins=[x_edges, y_edges])
    columns, rows = np.nonzero(counts)
    filled = counts[columns, rows]

    def influence_of(edge: np.ndarray) -> np.ndarray:
        return np.asarray(np.sign(edge) * constant * np.expm1(np.abs(edge)))

    return pl.DataFrame(
        {
            "loss": np.exp(x_edges[columns]),
            "loss_end": np.exp(x_edges[columns + 1]),
            "influence": influence_of(y_edges[rows]),
            "influence_end": influence_of(y_edges[rows + 1]),
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


def _mean_step(point: str, steps: dict[str, int]) -> float | None:
    parts = [point] if point in steps else point.split("+")
    if not all(part in steps for part in parts):
        return None
    return sum(steps[part] for part in parts) / len(parts)


def _natural_order(labels: Sequence[str]) -> list[str]:
    """Sort numbers as numbers, before words."""

    def key(label: str) -> tuple[bool, float, str]:
        number = label.isascii() and label.isdigit()
        return (not number, float(label) if number else 0.0, label)

    return sorted(labels, key=key)


def _thin(curve: pl.DataFrame) -> pl.DataFrame:
    """Keep at most `CURVE_POINTS` rows, the first and the last among them."""
    if curve.height <= CURVE_POINTS:
        return curve
    chosen = np.unique(np.linspace(0, curve.height - 1, CURVE_POINTS).round().astype(np.int64))
    return curve[chosen]
