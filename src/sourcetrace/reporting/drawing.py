"""How a chart of the page is drawn: static SVG text, offline, readable without a script."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from sourcetrace.formats import safe_text
from sourcetrace.reporting import palette
from sourcetrace.schemas.review import is_suspect

WIDTH = 410
WIDE = 470
# Of a mean that is drawn: more than a picture can show.
DIGITS = 6

# The page writes a space before the sign, and so do the axes.
PER_CENT = "format(100 * datum.value, '~g') + '\u00a0%'"

SUSPECTS, REST = "suspects", "all others"
GROUPS = [SUSPECTS, REST]

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
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": palette.INK.light,
        "labelFontSize": 12,
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


def draw(
    name: str,
    title: str,
    caption: str,
    description: str,
    layers: Sequence[alt.Chart],
    *,
    height: int,
    above: str,
    width: int = WIDTH,
) -> Figure:
    """Return a figure of layers that share their scales.

    Args:
        name: As in `Figure`.
        title: As in `Figure`.
        caption: As in `Figure`.
        description: As in `Figure`.
        layers: From back to front.
        height: Of the whole drawing, legend and axes included.
        above: What the vertical axis shows, written level above it.
        width: Of the whole drawing; the page scales it.
    """
    chart = alt.layer(*layers).properties(
        width=width,
        height=height,
        title=above,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        padding=4,
    )
    spec = _shown(chart.to_dict()) | {"config": _CONFIG}
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    # The renderer counts ids over its lifetime; the same chart must give the same bytes.
    for number, old in enumerate(dict.fromkeys(re.findall(r'<clipPath id="([^"]+)"', svg)), 1):
        svg = svg.replace(f'<clipPath id="{old}"', f'<clipPath id="{name}-{number}"')
        svg = svg.replace(f'clip-path="url(#{old})"', f'clip-path="url(#{name}-{number})"')
    # The page says in words what the drawing shows.
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    return Figure(name, title, caption, description, svg)


def rule_at(x: alt.X, value: float, **looks: Any) -> alt.Chart:
    """Return a line at a place of a chart's horizontal axis, dashed and pale unless told."""
    looks = {"color": palette.MUTED.light, "strokeDash": [4, 3], **looks}
    name = str(x.shorthand).removesuffix(":Q")
    chart: alt.Chart = alt.Chart(pl.DataFrame({name: [float(value)]}))
    return chart.mark_rule(**looks).encode(x=x)  # type: ignore[no-any-return]


def groups_of(review_list: pl.DataFrame) -> pl.DataFrame:
    """Return example_id and group, one of `GROUPS`."""
    return review_list.select(
        "example_id",
        group=pl.when(is_suspect()).then(pl.lit(SUSPECTS)).otherwise(pl.lit(REST)),
    )


def group_colour() -> alt.Color:
    """Return the colours of `GROUPS`."""
    inks = [palette.RELABEL.light, palette.KEEP.light]
    return alt.Color("group:N", scale=alt.Scale(domain=GROUPS, range=inks))


def group_shape() -> alt.Shape:
    """Return the symbols of `GROUPS`, which do not leave the difference to colour."""
    return alt.Shape("group:N", scale=alt.Scale(domain=GROUPS, range=["diamond", "circle"]))


def opacity_of(column: str) -> alt.Opacity:
    """Return the opacity a column has already."""
    return alt.Opacity(f"{column}:Q", scale=None, legend=None)


def _shown(part: Any) -> Any:
    """Return a specification in which every text is safe: a renderer ends at a NUL."""
    if isinstance(part, dict):
        return {_shown(key): _shown(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_shown(value) for value in part]
    return safe_text(part) if isinstance(part, str) else part
