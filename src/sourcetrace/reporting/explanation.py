"""What training did to some queries, example by example and token by token; the page of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from sourcetrace.formats import format_number
from sourcetrace.reporting.drawing import Ink
from sourcetrace.reporting.templating import template

_STRONGEST = 5
"""Tokens that are named, each of those that help and those that hurt."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class Asked:
    """What is to be explained.

    Attributes:
        queries: Ids of audited queries.
        source: Queries that were not audited, as the task's `queries_of` takes them; None for none.
        strongest: How many helpers, and as many harmers, of each query.
        tokens: Whether scores by token are wanted; None where the task has texts.
    """

    queries: tuple[str, ...] = ()
    source: Any = None
    strongest: int = 5
    tokens: bool | None = None


class Token(_Record):
    """A token's text, and its part of a score."""

    text: str
    score: float


class Influence(_Record):
    """A training example and what its removal is predicted to do to a query's measurement.

    Attributes:
        example_id, label, text: The example, as its table or its tokens have it.
        score: The change.
        segments: Every segment's share of it; none where the method does not tell them apart.
        tokens: Its parts by token, all segments together; none where there are no tokens.
        elsewhere: Layer -> the part that belongs to no one token.
    """

    example_id: str
    label: str | None
    text: str
    score: float
    segments: tuple[float, ...] = ()
    tokens: tuple[Token, ...] = ()
    elsewhere: Mapping[str, float] = {}

    def strength(self, token: Token) -> float:
        """Return the token's part over the largest one's size, -1 to 1."""
        largest = max(abs(one.score) for one in self.tokens)
        return token.score / largest if largest else 0.0


class ExplainedQuery(_Record):
    """A query, and the training examples that helped and harmed it most, strongest first."""

    example_id: str
    label: str | None
    predicted_label: str | None
    text: str
    measurement: float
    helpers: tuple[Influence, ...]
    harmers: tuple[Influence, ...]


class Explanations(_Record):
    """Some queries explained.

    Attributes:
        method: That scored.
        measured: What the measurement is called.
        higher_is_better: Whether more of it is better.
        training_examples: How many were scored.
        segments: What each segment is called.
        queries: The queries.
    """

    method: str
    measured: str
    higher_is_better: bool
    training_examples: int
    segments: tuple[str, ...]
    queries: tuple[ExplainedQuery, ...]

    def helps(self, score: float) -> bool:
        """Return whether what scores so helps the query: without it, it is measured worse."""
        return (score < 0) == self.higher_is_better

    def strongest_tokens(self, one: Influence) -> dict[str, list[Token]]:
        """Return the tokens of an example that help most, and that hurt, strongest first."""
        some = [token for token in one.tokens if token.score]
        tokens = sorted(some, key=lambda token: -abs(token.score))
        return {
            verb: [token for token in tokens if self.helps(token.score) == helps][:_STRONGEST]
            for verb, helps in (("helps", True), ("hurts", False))
        }

    def told(self, score: float) -> str:
        """Return what removing an example of this score would do."""
        verb = "raise" if score > 0 else "lower"
        return f"{verb} the {self.measured} by {format_number(abs(score))}"

    def groups(self, query: ExplainedQuery) -> Sequence[tuple[str, str, Sequence[Influence]]]:
        """Return both lists of a query, each with its title and what removal does."""
        up, down = (f"{verb} the {self.measured}" for verb in ("raise", "lower"))
        worse, better = (down, up) if self.higher_is_better else (up, down)
        return [
            ("Strongest helpers", f"removing one would {worse}", query.helpers),
            ("Strongest harmers", f"removing one would {better}", query.harmers),
        ]

    def page(self) -> str:
        """Return a self-contained page of HTML."""
        return template("explanation.html.j2").render(found=self, inks=Ink)
