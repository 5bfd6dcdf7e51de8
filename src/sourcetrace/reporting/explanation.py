"""What training did to some queries, example by example and token by token."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from sourcetrace.formats import format_noun, format_number, format_share

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
        tokens: Whether passes of the shown examples are wanted, for scores by segment and token;
            None where the task has texts.
        pictures: Whether pictures are wanted of what the task draws.
    """

    queries: tuple[str, ...] = ()
    source: Any = None
    strongest: int = 5
    tokens: bool | None = None
    pictures: bool = False


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
    """A query, and the training examples that helped and harmed it most, strongest first.

    Attributes:
        example_id, label, text: The query, as its table or its tokens have it.
        predicted_label: What the model says.
        measurement: Of the query.
        shares: "stage" or "segment" -> name -> share of the scores' summed sizes; may be empty.
        helpers, harmers: Without one, the query would be measured worse, or better.
    """

    example_id: str
    label: str | None
    predicted_label: str | None
    text: str
    measurement: float
    shares: Mapping[str, Mapping[str, float]] = {}
    helpers: tuple[Influence, ...]
    harmers: tuple[Influence, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def without_helpers(self) -> float:
        """The measurement without all of these helpers, to first order."""
        return self.measurement + sum(one.score for one in self.helpers)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def without_harmers(self) -> float:
        """The measurement without all of these harmers, to first order."""
        return self.measurement + sum(one.score for one in self.harmers)


class Explanations(_Record):
    """Some queries explained.

    Attributes:
        method: That scored.
        measured: What the measurement is called.
        higher_is_better: Whether more of it is better.
        log_odds: Whether it is log p − log(1 − p) of the label's probability p.
        training_examples: How many were scored.
        segments: What each segment of `Influence.segments` is called.
        queries: The queries.
        pictures, query_pictures: Training example, or query -> `data:` address; in no JSON.
    """

    method: str
    measured: str
    higher_is_better: bool
    log_odds: bool = False
    training_examples: int
    segments: tuple[str, ...] = ()
    queries: tuple[ExplainedQuery, ...]
    pictures: Mapping[str, str] = Field(default={}, exclude=True)
    query_pictures: Mapping[str, str] = Field(default={}, exclude=True)

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

    def facts(self, query: ExplainedQuery) -> Iterator[str]:
        """Yield what there is to say of a query, a sentence each."""
        predicted, exact = query.predicted_label, f"{query.measurement:.3f}"
        if predicted is not None and query.label is None and predicted.startswith(exact):
            # A language model's loss, with what it means.
            yield f"Its {self.measured} is {predicted}."
        else:
            said = "" if predicted is None else f", the model says {predicted}"
            yield f"Its {self.measured} is {self._value(query.measurement)}{said}."
        without = [
            f"without its {format_noun(len(group), f'strongest {noun}')} {self._value(value)}"
            for group, noun, value in (
                (query.helpers, "helper", query.without_helpers),
                (query.harmers, "harmer", query.without_harmers),
            )
            if group
        ]
        if without:
            yield f"Predicted: {', '.join(without)}."
        for kind, shares in query.shares.items():
            if len(shares) > 1:
                parts = ", ".join(f"{name} {format_share(one)}" for name, one in shares.items())
                yield f"Share of all influence by {kind}: {parts}."

    def _value(self, measurement: float) -> str:
        shown = format_number(measurement)
        if not self.log_odds:
            return shown
        probability = (1 + math.tanh(measurement / 2)) / 2
        return f"{shown} (probability {format_share(probability)})"
