"""Explain queries: of the audit, by its scores, or others, scored by the curvature it stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl
import torch
from kedro.pipeline import Pipeline
from torch import Tensor

from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.methods.token_scores import TokenScores, token_scores
from sourcetrace.core.model.examples import Examples
from sourcetrace.datasets.score_files import ScoreFiles, listed_strongest, strongest_of
from sourcetrace.errors import InputError
from sourcetrace.pipelines.set_up.audit_setup import AuditSetup
from sourcetrace.pipelines.set_up.nodes import SET_UP
from sourcetrace.pipelines.shared.step import step
from sourcetrace.pipelines.source_scoring.work import scorer_of
from sourcetrace.progress import track
from sourcetrace.reporting.explanation import (
    Asked,
    ExplainedQuery,
    Explanations,
    Influence,
    Token,
)
from sourcetrace.reporting.queries.view import (
    Measurement,
    is_log_odds,
    query_places,
    row_words,
    shares_of,
)
from sourcetrace.schemas.query_view import SIDES
from sourcetrace.tasks import Task
from sourcetrace.tasks.calls import call


def explain_queries(
    audit_setup: AuditSetup,
    curvature: list[Any],
    score_files: ScoreFiles,
    query_strongest: pl.DataFrame,
    measurement: dict[str, Any],
    query_signals: pl.DataFrame,
    query_shares: pl.DataFrame,
    asked: Asked,
) -> Explanations:
    """Return the strongest helpers and harmers of each query, by segment and by token.

    Args:
        audit_setup: Of the audit.
        curvature: That it fitted.
        score_files: Its scores.
        query_strongest: Of its queries.
        measurement: What it measured of queries.
        query_signals: Of its queries.
        query_shares: Of its queries' scores.
        asked: Which queries, and how.
    """
    setup, task = audit_setup, audit_setup.inputs.task
    queries = _audited(setup, asked.queries) if asked.source is None else _further(task, asked)
    higher, names = task.measurement_higher_is_better, pl.Series(queries.examples.ids)
    if asked.source is None:
        strongest = listed_strongest(
            query_strongest,
            lambda: score_files,
            queries.examples.ids,
            setup.queries.ids,
            asked.strongest,
            higher_is_better=higher,
        )
    else:
        scores = _scores(setup, curvature, queries.examples).double().T.numpy()
        blocks = [(pl.Series(setup.engine.training.ids), scores)]
        strongest = strongest_of(blocks, asked.strongest, higher_is_better=higher)
        strongest = strongest.with_columns(query_id=names.gather(strongest["query"]))
    training = _Shown(task, setup.engine.training, setup.inputs.train_table)
    told = Measurement.model_validate(measurement)
    numbered = pl.DataFrame({"example_id": setup.engine.training.ids}).with_row_index("number")
    strongest = strongest.join(numbered, on="example_id", maintain_order="left")
    numbers = strongest["number"].unique().sort().to_list()
    tokens = {number: training.tokens(number) for number in numbers}
    parts = {}
    if told.by_token if asked.tokens is None else asked.tokens:
        lengths = {number: len(texts) for number, texts in tokens.items()}
        parts = _parts(setup, curvature, queries.examples, lengths)
    measured, predicted = _measured(setup, queries.examples)
    # A query that was not audited has none, whatever it is called.
    known = query_shares if asked.source is None else query_shares.clear()

    def influences(query: int, side: str) -> tuple[Influence, ...]:
        rows = strongest.filter(query_id=names[query], side=side)
        return tuple(
            Influence(
                **training.said(number),
                score=score,
                **_by_part(parts.get(number), query, tokens[number]),
            )
            for number, score in rows.select("number", "score").iter_rows()
        )

    return Explanations(
        method=setup.attribution.method,
        measured=told.name,
        higher_is_better=told.higher_is_better,
        log_odds=is_log_odds(query_signals),
        training_examples=len(setup.engine.training),
        segments=tuple(
            f"{one.segment.number} ({one.segment.stage})" for one in setup.plan.segments
        ),
        queries=tuple(
            ExplainedQuery(
                **queries.said(query),
                measurement=measured[query],
                predicted_label=predicted[query],
                shares=shares_of(known, queries.examples.ids[query]),
                helpers=influences(query, SIDES[0]),
                harmers=influences(query, SIDES[1]),
            )
            for query in range(len(names))
        ),
    )


@dataclass(frozen=True)
class _Shown:
    """Examples, with what is shown of each."""

    task: Task
    examples: Examples
    table: pl.DataFrame

    def tokens(self, number: int) -> list[str]:
        """Return the texts of an example's tokens; none where the task has none."""
        if not hasattr(self.task, "tokens_of"):
            return []
        return [str(text) for text in call(self.task, "tokens_of", "", self.examples.items[number])]

    def said(self, number: int) -> dict[str, Any]:
        """Return id, label and text of an example: of its tokens, else what else its table has."""
        said = row_words(self.table.row(number, named=True))
        tokens = self.tokens(number)
        return said | {"text": "".join(tokens)} if tokens else said


def _scores(setup: AuditSetup, curvature: Sequence[Any], queries: Examples) -> Tensor:
    """Return the scores of all training examples for some queries, [Q, N]."""
    segments = curvature or [None] * len(setup.plan.segments)

    def of_layers(layers: Sequence[Layer]) -> Tensor:
        scorer = scorer_of(setup, segments, queries, layers)
        found = (
            scorer.scores(block, self_influence=False).shares.sum(0)
            for block in track(setup.engine.blocks(), "Scoring")
        )
        return torch.cat([one[:-1].cpu() for one in found], 1)  # without the mean loss's

    return reduce(torch.add, map(of_layers, setup.needs.scoring.groups))


def _parts(
    setup: AuditSetup, curvature: Sequence[Any], queries: Examples, lengths: Mapping[int, int]
) -> dict[int, TokenScores]:
    """Return the scores of some examples by token; none where scores have no parts.

    Args:
        setup: Of the audit.
        curvature: Of every segment.
        queries: The queries.
        lengths: Number of an example -> tokens of its sequence.
    """
    segments = curvature or [None] * len(setup.plan.segments)
    parts: dict[int, TokenScores] = {}
    for group in setup.needs.scoring.groups:
        # In a line: what it holds makes room for the next group.
        found = token_scores(
            scorer_of(setup, segments, queries, group).responses,
            setup.engine.of_layers(group),
            lengths,
        )
        for number, one in found.items():
            parts[number] = parts[number] + one if number in parts else one
    return parts


def _by_part(found: TokenScores | None, query: int, texts: Sequence[str]) -> dict[str, Any]:
    """Return an example's score for a query by segment, token and other parts, as `Influence`."""
    if found is None:
        return {}
    by_token = zip(texts, found.tokens[:, query].sum(0).tolist(), strict=True)
    return {
        "segments": found.shares[:, query].tolist(),
        "tokens": [Token(text=text, score=score) for text, score in by_token],
        "elsewhere": {name: float(one[:, query].sum()) for name, one in found.elsewhere.items()},
    }


def _audited(setup: AuditSetup, wanted: Sequence[str]) -> _Shown:
    own = query_places(wanted, setup.queries.ids)
    return _Shown(setup.inputs.task, setup.queries.subset(own), setup.inputs.query_table[own])


def _further(task: Task, asked: Asked) -> _Shown:
    """Return queries that were not audited, as the task makes them."""
    if not hasattr(task, "queries_of"):
        raise InputError(
            f"{type(task).__name__} has no queries_of(source), which makes queries of rows; "
            "expected one for --text and --file. Add it, derive the task from an adapter such as "
            "TextData (docs/reference/tasks.md), or name queries of the audit."
        )
    items, table = call(task, "queries_of", "", asked.source)
    ids = table["example_id"].to_list()
    if not ids or len(set(ids)) < len(ids):
        raise InputError(
            f"{asked.source} gives {len(ids)} queries with {len(set(ids))} ids; expected one or "
            "more, each with an id of its own. Correct the rows."
        )
    return _Shown(task, Examples(items, ids, task.collate), table)


def _measured(setup: AuditSetup, queries: Examples) -> tuple[list[float], list[str | None]]:
    """Return each query's measurement, the mean over an ensemble, and what the task says of it."""
    signals = [
        [
            setup.engine.query_signals(queries, member.final, block)
            for block in queries.blocks(setup.engine.batch_size)
        ]
        for member in setup.plan.members
    ]
    measured = torch.stack([torch.cat([one.measurement for one in own]) for own in signals])
    predicted = [
        label
        for one in signals[-1]
        for label in one.described.get("predicted_label", [None] * len(one.measurement))
    ]
    return measured.mean(0).tolist(), predicted


PIPELINE = Pipeline([*SET_UP, step(explain_queries, "explanations")])
