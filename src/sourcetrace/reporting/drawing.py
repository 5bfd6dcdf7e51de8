"""How a chart of the page is drawn: static SVG text, offline, readable without a script."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import altair as alt
import polars as pl
import vl_convert

from sourcetrace.formats import safe_text
from sourcetrace.reporting.templating import Ink, template

# Of a mean that is drawn: more than a picture can show.
DIGITS = 6
_LONGEST = 120

# The page writes a space before the sign, and so do the axes.
PER_CENT = "format(100 * datum.value, '~g') + '\u00a0%'"


_STYLE = json.loads(template("chart_style.json.j2", autoescape=False).render(inks=Ink))


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

    @classmethod
    def draw(
        cls,
        name: str,
        layers: Sequence[alt.Chart],
        *,
        height: int,
        above: str,
        wide: bool = False,
        **facts: Any,
    ) -> Self:
        """Return a figure of layers that share their scales; its words are in `charts.txt.j2`.

        Args:
            name: As the attribute.
            layers: From back to front.
            height: Of the whole drawing, legend and axes included.
            above: What the vertical axis shows, written level above it.
            wide: Whether it leads the others.
            facts: What the words say of the data.
        """
        words = getattr(template("charts.txt.j2", autoescape=False).module, name.replace("-", "_"))
        # The last may hold a label, and a label anything.
        title, caption, description = words(**facts).strip().split("\n\n", 2)
        chart = alt.layer(*layers).properties(
            # The page scales it.
            width=470 if wide else 410,
            height=height,
            title=above,
            autosize=alt.AutoSizeParams(type="fit", contains="padding"),
            padding=4,
        )
        spec = _shown(chart.to_dict()) | {"config": _STYLE}
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        # The renderer counts ids over its lifetime; the same chart must give the same bytes.
        for number, old in enumerate(dict.fromkeys(re.findall(r'<clipPath id="([^"]+)"', svg)), 1):
            svg = svg.replace(f'<clipPath id="{old}"', f'<clipPath id="{name}-{number}"')
            svg = svg.replace(f'clip-path="url(#{old})"', f'clip-path="url(#{name}-{number})"')
        # The page says in words what the drawing shows.
        svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
        return cls(name, title, caption, description, svg)


def marks_by(field: str, looks: Mapping[str, tuple[Ink, str]]) -> dict[str, Any]:
    """Return the colour and the shape of points: what they differ in is not left to colour.

    Args:
        field: What they differ in.
        looks: Its value -> ink and shape, in the order of the legend.
    """
    values, inks = list(looks), [ink.light for ink, _ in looks.values()]
    shapes = [shape for _, shape in looks.values()]
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=values, range=inks)),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=values, range=shapes)),
    }


def rule_at(x: alt.X, value: float, **looks: Any) -> alt.Chart:
    """Return a line at a place of a chart's horizontal axis, dashed and pale unless told."""
    looks = {"color": Ink.MUTED.light, "strokeDash": [4, 3], **looks}
    name = str(x.shorthand).removesuffix(":Q")
    chart: alt.Chart = alt.Chart(pl.DataFrame({name: [float(value)]}))
    return chart.mark_rule(**looks).encode(x=x)  # type: ignore[no-any-return]


def across(field: str, title: str, scale: dict[str, Any], **axis: Any) -> alt.X:
    """Return a horizontal axis of numbers that ends where its scale does."""
    return alt.X(
        f"{field}:Q", title=title, scale=alt.Scale(nice=False, **scale), axis=alt.Axis(**axis)
    )


def upwards(field: str, scale: dict[str, Any], **axis: Any) -> alt.Y:
    """Return a vertical axis of numbers; what it shows is written above the drawing."""
    return alt.Y(f"{field}:Q", title=None, scale=alt.Scale(**scale), axis=alt.Axis(**axis))


def _shown(part: Any) -> Any:
    """Return a specification in which every text is safe: a renderer ends at a NUL."""
    if isinstance(part, dict):
        return {_shown(key): _shown(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_shown(value) for value in part]
    # Room for a label; a renderer measures a long one for seconds.
    return safe_text(part, _LONGEST) if isinstance(part, str) else part
