"""Every ink is readable on its paper, by the Web Content Accessibility Guidelines' contrast."""

import pytest

from sourcetrace.reporting import palette

INKS = {
    "ink": palette.Ink.INK,
    "muted": palette.Ink.MUTED,
    "link": palette.Ink.LINK,
    "relabel": palette.Ink.RELABEL,
    "check": palette.Ink.CHECK,
    "keep": palette.Ink.KEEP,
    **{f"ranking {i}": colour for i, colour in enumerate(palette.RANKINGS)},
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
@pytest.mark.parametrize("ground", [palette.Ink.PANEL, palette.Ink.PAPER], ids=["panel", "paper"])
def test_contrast(name, theme, ground):
    assert contrast(getattr(INKS[name], theme), getattr(ground, theme)) >= 4.5


def test_every_chart_colour_has_a_dark_one():
    rules = palette.Ink.dark_chart_rules()
    for colour in INKS.values():
        assert f'[stroke="{colour.light}"] {{ stroke: {colour.dark}; }}' in rules
        assert f'[fill="{colour.light}"] {{ fill: {colour.dark}; }}' in rules
