"""Numbers and texts as a reader wants them: separators, units, no false 0 %, nothing unseen."""

import math
import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches

MISSING = "—"
_NO_BREAK_SPACE = "\u00a0"
_MINUS = "−"
_SMALLEST_SHARE = 0.001
_NAMED = 5

UNSEEN = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
"""A pattern of what text that is shown must not have.

Control characters but line feed and tab, noncharacters (XML has no FFFE and FFFF: a chart's
renderer ends the process at them), line and paragraph separators, and what reorders or hides the
text around it: bidirectional controls, tags, byte-order marks, annotations.
"""

# Surrogates as well: a name of a file may have them, though no table does.
_UNSAFE = re.compile(f"{UNSEEN}|[\ud800-\udfff]")


def format_count(count: int) -> str:
    """Return 1437 as '1,437'."""
    return f"{count:,}"


def format_noun(count: int, noun: str, plural: str | None = None) -> str:
    """Return '1 query' or '3 queries'."""
    return f"{format_count(count)} {noun if count == 1 else plural or noun + 's'}"


def format_names(names: Iterable[object]) -> str:
    """Return the first five names, and how many more there are."""
    every = [str(name) for name in names]
    more = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def format_near(name: str, known: Iterable[str]) -> str:
    """Return 'Did you mean audit? ' for a name that is none of the known, '' if none is near."""
    near = get_close_matches(name, list(known), n=1)
    return "".join(f"Did you mean {one}? " for one in near)


def format_known(name: str, known: Iterable[str]) -> str:
    """Return 'Did you mean audit? There are adopt, audit' for a name that is none of the known."""
    every = sorted(known)
    return f"{format_near(name, every)}There are {', '.join(every)}"


def format_span(first: int, last: int) -> str:
    """Return '110' or '110–330'."""
    return format_count(first) if first == last else f"{format_count(first)}–{format_count(last)}"


def format_number(value: float | None, *, signed: bool = False) -> str:
    """Return three significant digits, with a real minus sign and, if asked, a plus sign."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else _MINUS + "∞"
    if value == 0:
        return "0"
    # 999.6 would read 1e+03 with three significant digits.
    grouped = 999.5 <= abs(value) < 1e9  # noqa: PLR2004
    magnitude = f"{abs(value):,.0f}" if grouped else f"{abs(value):.3g}"
    magnitude = magnitude.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if value < 0:
        return _MINUS + magnitude
    return "+" + magnitude if signed else magnitude


def format_with_error(value: float | None, error: float | None) -> str:
    """Return '+31.7 ± 20', the error with two digits; without one where it is 0 or unknown."""
    text = format_number(value, signed=True)
    if not error or math.isnan(error):
        return text
    return f"{text} ± {format_number(float(f'{error:.2g}'))}".replace(" ", _NO_BREAK_SPACE)


def format_share(share: float | None) -> str:
    """Return a share as per cent; only an exact 0 or 1 reads 0 % or 100 %."""
    if share is None or math.isnan(share):
        return MISSING
    if 0 < share < _SMALLEST_SHARE:
        text = "< 0.1"
    elif 1 - _SMALLEST_SHARE < share < 1:
        text = "> 99.9"
    else:
        text = f"{100 * share:.1f}".removesuffix(".0")
    return (text + " %").replace(" ", _NO_BREAK_SPACE)


def format_ratio(value: float | None) -> str:
    """Return a value with two decimals and a real minus sign."""
    return MISSING if value is None else f"{value:.2f}".replace("-", _MINUS)


def format_correlation(value: float | None) -> str:
    """Return a correlation with two decimals; only an exact 1 reads 1.00."""
    return format_ratio(min(value, 0.99) if value is not None and value < 1 else value)


def format_moment(at: str) -> str:
    """Return '2026-11-26T15:38:13+00:00' as '2026-11-26 15:38 UTC'."""
    return f"{at[:10]} {at[11:16]} UTC"


def format_duration(seconds: float) -> str:
    """Return 58.3 as '58 s', 5000 as '1 h 23 min'."""
    whole = max(1, round(seconds))
    if whole < 120:  # noqa: PLR2004
        return f"{whole}{_NO_BREAK_SPACE}s"
    hours, minutes = divmod(round(whole / 60), 60)
    text = f"{format_count(hours)} h {minutes} min" if hours else f"{minutes} min"
    return text.replace(" ", _NO_BREAK_SPACE)


def with_environment(text: str, environment: str) -> str:
    """Return text whose commands run in the environment that an audit ran in.

    Args:
        text: In which commands may stand, `kedro run --pipelines gate`; one with `--env` stays.
        environment: A folder in conf/; empty for the default one.
    """
    option = f" --env {shlex.quote(environment)}" if environment else ""
    commands = r"(?:kedro run --pipelines [\w,]+|sourcetrace explain \w+)(?![\w,]| --env)"
    return re.sub(commands, lambda found: found[0] + option, text)


def format_bytes(size: int) -> str:
    """Return 2 300 000 as '2.3 MB'."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:  # noqa: PLR2004
            return f"{value:.3g}{_NO_BREAK_SPACE}{unit}"
        value /= 1000
    return f"{value:,.1f}{_NO_BREAK_SPACE}TB"


def shorten(text: str, limit: int = 80) -> str:
    """Cut a long text, and say so with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def safe_text(text: str, limit: int = 2000) -> str:
    r"""Return text of the user's as a page, a chart, a terminal or a document may show it.

    Characters that cannot be seen, or change what stands beside them, are written as their code,
    `\u202e`; texts beyond the limit are cut.
    """
    # Cut before as well: codes are longer than what they stand for.
    coded = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text[: limit + 1])
    return shorten(coded, limit)
