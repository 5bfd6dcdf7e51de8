"""Every ink is readable on its paper, by the Web Content Accessibility Guidelines' contrast."""

import pytest

from sourcetrace.reporting.templating import Ink
from sourcetrace.reporting.trust_charts import _RANKINGS

INKS = {
    "ink": Ink.INK,
    "muted": Ink.MUTED,
    "link": Ink.LINK,
    "relabel": Ink.RELABEL,
    "review": Ink.CHECK,
    "keep": Ink.KEEP,
    **{f"ranking {i}": colour for i, colour in enumerate(_RANKINGS)},
}


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", INKS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", [Ink.PANEL, Ink.PAPER], ids=["panel", "paper"])
def test_contrast(name, theme, ground):
    assert contrast(getattr(INKS[name], theme), getattr(ground, theme)) >= 4.5
