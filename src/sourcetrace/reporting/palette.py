"""The colours, once: charts are drawn in the light ones, the page's style sheet has both.

A chart is plain SVG whose colours are attributes. A style rule that names the attribute's
value overrules it, so the same drawing reads well on dark and on light paper.
Every ink has a contrast of at least 4.5 to 1 with its panel.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour on light and on dark paper."""

    light: str
    dark: str


INK = Colour("#1b2330", "#e7eaef")
MUTED = Colour("#566273", "#a0acbb")
RULE = Colour("#dfe3e9", "#333d4b")
PAPER = Colour("#f6f6f3", "#11151b")
PANEL = Colour("#ffffff", "#1a2029")
LINK = Colour("#1f5aa8", "#8fbaf5")
RELABEL = Colour("#b3361c", "#ff9478")
CHECK = Colour("#825a00", "#e8b95c")
KEEP = Colour("#3f6493", "#93b4e2")

# Rankings of the ground-truth chart; the order of colours and of dashes goes with them.
RANKINGS = (
    RELABEL,
    KEEP,
    CHECK,
    Colour("#2b7150", "#79cba3"),
    Colour("#774a9b", "#c9a3e8"),
    Colour("#5d5d5d", "#bdbdbd"),
)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])

_NAMED = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "paper": PAPER,
    "panel": PANEL,
    "link": LINK,
    "relabel": RELABEL,
    "check": CHECK,
    "keep": KEEP,
}


def page_variables(*, dark: bool) -> str:
    """Return the style sheet's custom properties."""
    return " ".join(
        f"--{name}: {colour.dark if dark else colour.light};" for name, colour in _NAMED.items()
    )


def dark_chart_rules() -> str:
    """Return the rules that turn a chart's light colours into the dark ones."""
    colours = dict.fromkeys((*_NAMED.values(), *RANKINGS))
    return "\n".join(
        f'.chart [{attribute}="{colour.light}"] {{ {attribute}: {colour.dark}; }}'
        for colour in colours
        for attribute in ("fill", "stroke")
    )
