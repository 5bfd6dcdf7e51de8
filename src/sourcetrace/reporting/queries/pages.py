"""Explained queries in HTML: a page of their own, and the section of the report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from sourcetrace.reporting.explanation import Explanations
from sourcetrace.reporting.suspects import picture_uri
from sourcetrace.reporting.templating import Ink, template

_BYTES = 300_000
"""Of the section, so that a page stays one that can be mailed."""


def explanation_page(found: Explanations) -> str:
    """Return a self-contained page."""
    return template("explanation.html.j2").render(found=found, inks=Ink)


def pictured(
    found: Explanations, task: Any, train_table: pl.DataFrame, query_table: pl.DataFrame
) -> Explanations:
    """Return explanations with the pictures that a task draws of what its tables have of them."""

    def drawn(name: str, table: pl.DataFrame, shown: set[str]) -> dict[str, str]:
        draw = getattr(task, name, None)
        if draw is None:
            return {}
        ids = enumerate(table["example_id"])
        return {one: picture_uri(np.asarray(draw(place))) for place, one in ids if one in shown}

    shown = {one.example_id for query in found.queries for one in (*query.helpers, *query.harmers)}
    pictures = drawn("picture", train_table, shown)
    own = drawn("query_picture", query_table, {query.example_id for query in found.queries})
    return found.model_copy(update={"pictures": pictures, "query_pictures": own})


@dataclass(frozen=True)
class QuerySection:
    """The queries that the report shows.

    Attributes:
        find: Returns the worst measured, the worst first.
        total: How many there are in all.
        pictures: Training example -> [H, W] or [H, W, 3] in 0..1; may be empty.
        query_pictures: The same of queries.
    """

    find: Callable[[], Explanations]
    total: int
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    query_pictures: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def found(self) -> Explanations:
        """What is shown; looked for when it is first asked for."""
        return self.find()

    def shown(self) -> list[Markup]:
        """Return the first queries in HTML, as many as there is room for."""
        write = template("query.html.j2").module.closed  # type: ignore[attr-defined]
        pictures, own = (
            {name: picture_uri(one) for name, one in every.items()}
            for every in (self.pictures, self.query_pictures)
        )
        shown: list[Markup] = []
        room = _BYTES
        for query in self.found.queries:
            text = write(self.found, query, pictures, own, opened=not shown)
            room -= len(text.encode("utf-8", "replace"))
            if shown and room < 0:
                break
            shown.append(text)
        return shown
