"""The colours of the pages and their charts, stated once.

A chart's are attributes of its SVG. A style rule that names the attribute's value overrules it
(`page.html.j2`), so the same drawing reads well on dark and on light paper. Every ink has a
contrast of at least 4.5 to 1 with its panel.
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
