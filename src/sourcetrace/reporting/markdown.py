"""Text and sentences for Markdown: a label or a name may hold anything, markup included."""

import re

from sourcetrace.formats import format_count, format_noun, format_share, safe_text

# Whatever starts markup in CommonMark and in GitHub's tables and strikethrough.
_MARKUP = re.compile(r"[\\`*\[\]>|#~]")
# As entities: not every renderer knows these behind a backslash.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", "$": "&#36;"})
# Inside a word an underscore is one; names of metrics stay readable.
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# At the start of a line these make a list, a rule or a heading.
_START = re.compile(r"^(\d*)([-+=]|[.)](?=\s|$))")

OUTCOME_MEANING = {
    "pass": "every check of the gate passed",
    "warn": "the gate passed with warnings",
    "fail": "see what was found",
    "inconclusive": "too little is known to judge",
    "unjudged": "no gate judged it",
    "error": "the run broke off before its end",
}
"""How an audit ended -> what that means."""


def escape_markdown(text: str) -> str:
    """Return a line that shows this text and is nothing but text."""
    escaped = _MARKUP.sub(r"\\\g<0>", " ".join(safe_text(text).split()))
    started = _START.sub(r"\1\\\2", _UNDERSCORE.sub(r"\_", escaped))
    return started.translate(_ENTITIES)


def code_span(text: str) -> str:
    """Return text as code; it stays in its table cell and in its span."""
    return f"`{' '.join(safe_text(text).split()).replace('`', 'ˋ').replace('|', '¦')}`"


def suspects_sentence(*, relabel: int, check: int, training_examples: int) -> str:
    """Return how many examples are suspects, and what is suggested."""
    suspects = relabel + check
    return (
        f"{format_count(suspects)} of {format_noun(training_examples, 'training example')} "
        f"({format_share(suspects / max(1, training_examples))}) are suspects: "
        f"{format_count(relabel)} to relabel, {format_count(check)} to check."
    )
