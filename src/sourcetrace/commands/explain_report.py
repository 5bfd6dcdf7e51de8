"""What `sourcetrace explain` says at a terminal."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from sourcetrace.formats import format_count, format_number, safe_text, shorten
from sourcetrace.reporting.explanation import ExplainedQuery, Explanations, Influence

_WIDTH_OF_A_LOG = 160
_LONGEST = 400
_FAINT = 0.08
"""Tokens that are weaker than this, of the strongest, stay without a colour."""

_HELPS, _HURTS = (47, 111, 191), (196, 64, 40)


def print_explanations(found: Explanations, *, page: Path | None) -> None:
    """Print every query with its helpers and harmers.

    Args:
        found: What was found.
        page: Where the page of it is, if one was written.
    """
    # A log has no width; without one, rich folds at 80 characters.
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_LOG
    console = Console(highlight=False, width=width)
    for query in found.queries:
        for line in _lines(found, query):
            console.print(line)
    if page is not None:
        console.print(f"\nPage: {escape(str(page))}", soft_wrap=True)


def _lines(found: Explanations, query: ExplainedQuery) -> Iterator[str | Padding]:
    yield f"\n[bold]Query {_plain(query.example_id)}[/]{_label(query.label)}"
    if query.text:
        yield _indented(Text(_shown(query.text)))
    for fact in found.facts(query):
        yield f"  {_plain(fact)}"
    yield (f"  Method {found.method}, {format_count(found.training_examples)} training examples.")
    for title, removal, group in found.groups(query):
        yield f"\n[bold]{title}[/] ({removal})" if group else f"\n[bold]{title}[/]: none"
        for rank, one in enumerate(group, 1):
            yield from _influence(found, one, rank)


def _influence(found: Explanations, one: Influence, rank: int) -> Iterator[str | Padding]:
    yield (
        f"{rank:>3}  [bold]{_plain(one.example_id)}[/]{_label(one.label)}: removing it would "
        f"{found.told(one.score)}"
    )
    if len(one.segments) > 1:
        yield f"     by segment: {_parts(zip(found.segments, one.segments, strict=True))}"
    if not one.tokens:
        if one.text:
            yield _indented(Text(_shown(one.text)))
        return
    yield _indented(_coloured(found, one))
    for verb, tokens in found.strongest_tokens(one).items():
        if tokens:
            colour = "blue" if verb == "helps" else "red"
            parts = _parts((repr(token.text), token.score) for token in tokens)
            yield f"     [{colour}]{verb}[/] most: {parts}"
    if one.elsewhere:
        yield f"     of no one token: {_parts(one.elsewhere.items())}"


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 5), expand=False)


def _coloured(found: Explanations, one: Influence) -> Text:
    text = Text()
    for token in one.tokens:
        strength = abs(one.strength(token))
        shown = safe_text(token.text).replace("\n", "⏎")
        if strength < _FAINT:
            text.append(shown)
            continue
        colour = _HELPS if found.helps(token.score) else _HURTS
        # On light paper's white, so that ink and paper are both stated: any terminal can read it.
        red, green, blue = (round(255 - strength * 0.65 * (255 - part)) for part in colour)
        text.append(shown, style=f"black on rgb({red},{green},{blue})")
    return text


def _parts(named: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{_plain(name)} {format_number(part, signed=True)}" for name, part in named)


def _shown(text: str) -> str:
    return shorten(" ".join(safe_text(text).split()), _LONGEST)


def _label(label: str | None) -> str:
    return "" if label is None else f" (label {_plain(shorten(label))})"


def _plain(text: str) -> str:
    """Return text that a terminal shows and does not obey."""
    return escape(safe_text(text))
