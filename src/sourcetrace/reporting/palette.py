"""The colours, once: charts are drawn in the light ones, the page's style sheet has both.

A chart is plain SVG whose colours are attributes. A style rule that names the attribute's
value overrules it, so the same drawing reads well on dark and on light paper.
Every ink has a contrast of at least 4.5 to 1 with its panel.
"""

from enum import Enum


class Ink(Enum):
    """A colour on light and on dark paper."""

    INK = ("#1b2330", "#e7eaef")
    MUTED = ("#566273", "#a0acbb")
    RULE = ("#dfe3e9", "#333d4b")
    PAPER = ("#f6f6f3", "#11151b")
    PANEL = ("#ffffff", "#1a2029")
    LINK = ("#1f5aa8", "#8fbaf5")
    RELABEL = ("#b3361c", "#ff9478")
    CHECK = ("#825a00", "#e8b95c")
    KEEP = ("#3f6493", "#93b4e2")
    GREEN = ("#2b7150", "#79cba3")
    VIOLET = ("#774a9b", "#c9a3e8")
    GREY = ("#5d5d5d", "#bdbdbd")

    def __init__(self, light: str, dark: str) -> None:
        self.light, self.dark = light, dark

    @classmethod
    def variables(cls, *, dark: bool) -> str:
        """Return the style sheet's custom properties."""
        return " ".join(f"--{ink.name.lower()}: {ink.dark if dark else ink.light};" for ink in cls)

    @classmethod
    def dark_chart_rules(cls) -> str:
        """Return the rules that turn a chart's light colours into the dark ones."""
        return "\n".join(
            f'.chart [{attribute}="{ink.light}"] {{ {attribute}: {ink.dark}; }}'
            for ink in cls
            for attribute in ("fill", "stroke")
        )


# Rankings of the ground-truth chart; the order of colours and of dashes goes with them.
RANKINGS = (Ink.RELABEL, Ink.KEEP, Ink.CHECK, Ink.GREEN, Ink.VIOLET, Ink.GREY)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])
