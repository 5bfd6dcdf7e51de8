"""The templates, in which the words of the page and of the model card stand, and their colours."""

import base64
import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jinja2
from markupsafe import Markup

from sourcetrace.formats import (
    format_correlation,
    format_count,
    format_duration,
    format_moment,
    format_noun,
    format_number,
    format_ratio,
    format_share,
    format_with_error,
    safe_text,
    shorten,
    with_environment,
)

_LOADER = jinja2.PackageLoader("sourcetrace.reporting")

# Whatever starts markup in CommonMark and in GitHub's tables and strikethrough.
_MARKUP = re.compile(r"[\\`*\[\]>|#~]")
# As entities: not every renderer knows these behind a backslash.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", "$": "&#36;"})
# Inside a word an underscore is one; names of metrics stay readable.
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# At the start of a line these make a list, a rule or a heading.
_START = re.compile(r"^(\d*)([-+=]|[.)](?=\s|$))")


class Ink(Enum):
    """A colour of pages and charts, on light and on dark paper.

    A chart's are attributes of its SVG. A style rule that names the attribute's value overrules it
    (`page.html.j2`), so the same drawing reads well on both. Every ink has a contrast of at least
    4.5 to 1 with its panel.
    """

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


def template(name: str, *, autoescape: bool = True) -> jinja2.Template:
    """Return a template, which knows the numbers' formats as filters.

    Args:
        name: Of its file.
        autoescape: Whether it is HTML, in which every value is made safe to show and escaped; in
            Markdown each value is escaped by the filter `md` or `code`.
    """
    environment = jinja2.Environment(
        loader=_LOADER,
        autoescape=autoescape,  # noqa: S701, in Markdown each value is escaped by its own filter
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown if autoescape else None,
    )
    environment.filters |= {
        "code": _code_span,
        "correlation": format_correlation,
        "count": format_count,
        "duration": format_duration,
        "here": with_environment,
        "md": _escape_markdown,
        "moment": format_moment,
        "noun": format_noun,
        "number": format_number,
        "share": format_share,
        "shorten": shorten,
        "two": format_ratio,
        "with_error": format_with_error,
    }
    return environment.get_template(name)


@dataclass(frozen=True)
class Script:
    """A script of a page.

    Attributes:
        text: Of its file, safe to put into a page.
        hash: By which the page's policy lets it run, and nothing else.
    """

    text: Markup
    hash: str

    @classmethod
    def named(cls, name: str) -> "Script":
        """Return the script in a file beside the templates."""
        text, _, _ = _LOADER.get_source(jinja2.Environment(), name)  # noqa: S701, only read
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        return cls(Markup(text), f"sha256-{digest}")  # noqa: S704, a file of ours


def plain_words(name: str, *values: Any) -> str:
    """Return one of the page's sentences as plain text in a line.

    Args:
        name: Of the macro in `words.html.j2`.
        values: Its arguments.
    """
    macro = getattr(template("words.html.j2", autoescape=False).module, name)
    return re.sub(r"[ \n]+", " ", macro(*values)).strip()


def _shown(value: Any) -> Any:
    """Return what a template writes; what is markup already is our own."""
    return safe_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _escape_markdown(text: str) -> str:
    """Return a line that shows this text and is nothing but text."""
    escaped = _MARKUP.sub(r"\\\g<0>", " ".join(safe_text(text).split()))
    started = _START.sub(r"\1\\\2", _UNDERSCORE.sub(r"\_", escaped))
    return started.translate(_ENTITIES)


def _code_span(text: str) -> str:
    """Return text as code; it stays in its table cell and in its span."""
    return f"`{' '.join(safe_text(text).split()).replace('`', 'ˋ').replace('|', '¦')}`"
