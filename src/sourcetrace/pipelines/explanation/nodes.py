"""Explain queries: of the audit, by its scores, or others, scored by the curvature it stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import polars as pl
import torch
from kedro.pipeline import Pipeline
from torch import Tensor

from sourcetrace.core.methods.grouped import GroupedScorer
from sourcetrace.core.methods.token_scores import TokenScores, token_scores
from sourcetrace.core.model.examples import Examples
from sourcetrace.datasets.score_files import ScoreFiles
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names, format_noun
from sourcetrace.pipelines.shared.scoring import scorer_of
from sourcetrace.pipelines.shared.set_up import SET_UP, AuditSetup
from sourcetrace.pipelines.shared.step import step
from sourcetrace.progress import track
from sourcetrace.reporting.explanation import (
    Asked,
    ExplainedQuery,
    Explanations,
    Influence,
    Token,
)
from sourcetrace.tasks import Task
from sourcetrace.tasks.calls import call

_NOT_SHOWN = {"example_id", "label", "stage"}


def explain_queries(
    audit_setup: AuditSetup, curvature: list[Any], score_files: ScoreFiles, asked: Asked
) -> Explanations:
    """Return the strongest helpers and harmers of each query.

    Args:
        audit_setup: Of the audit.
        curvature: That it fitted.
        score_files: Its scores.
        asked: Which queries, and how.
    """
    setup, task = audit_setup, audit_setup.inputs.task
    queries = _audited(setup, asked.queries) if asked.source is None else _further(task, asked)
    scorer = scorer_of(setup, curvature, queries.examples)
    if asked.source is None:
        own = _numbers(asked.queries, setup.queries.ids)
        scores = torch.cat([torch.tensor(part[:, own]) for _, part in score_files.blocks()]).T
    else:
        scored = scorer.scored(progress=lambda one: track(one, "Scoring"), self_influence=False)
        # Without the mean loss's.
        scores = torch.cat([found.shares.sum(0)[:-1].cpu() for _, found in scored], 1)
    better = scores if task.measurement_higher_is_better else -scores
    helpers, harmers = (_first(gain, asked.strongest) for gain in (-better, better))
    training = _Shown(task, setup.engine.training, setup.inputs.train_table)
    by_token = hasattr(task, "tokens_of") if asked.tokens is None else asked.tokens
    numbers = sorted({number for one in (*helpers, *harmers) for number in one})
    tokens = {number: training.tokens(number) if by_token else [] for number in numbers}
    parts = _parts(setup, scorer, {number: len(texts) for number, texts in tokens.items()})
    measured, predicted = _measured(setup, queries.examples)
    worse = "measurement" if task.measurement_higher_is_better else "loss"

    def influences(query: int, strongest: Sequence[Sequence[int]]) -> tuple[Influence, ...]:
        return tuple(
            Influence(
                **training.said(number),
                score=float(scores[query, number]),
                **_by_part(parts.get(number), query, tokens[number]),
            )
            for number in strongest[query]
        )

    return Explanations(
        method=setup.attribution.method,
        measured=getattr(task, "measurement_name", worse),
        higher_is_better=task.measurement_higher_is_better,
        training_examples=len(setup.engine.training),
        segments=tuple(
            f"{one.segment.number} ({one.segment.stage})" for one in setup.plan.segments
        ),
        queries=tuple(
            ExplainedQuery(
                **queries.said(query),
                measurement=measured[query],
                predicted_label=predicted[query],
                helpers=influences(query, helpers),
                harmers=influences(query, harmers),
            )
            for query in range(len(scores))
        ),
    )


@dataclass(frozen=True)
class _Shown:
    """Examples, with what is shown of each."""

    task: Task
    examples: Examples
    table: pl.DataFrame

    def tokens(self, number: int) -> list[str]:
        """Return the texts of an example's tokens.

        Raises:
            InputError: If the task has none.
        """
        if not hasattr(self.task, "tokens_of"):
            raise InputError(
                f"{type(self.task).__name__} has no tokens_of(item), which returns the texts of an "
                "item's tokens; expected one to explain token by token. Add it, or give "
                "--no-tokens."
            )
        return [str(text) for text in call(self.task, "tokens_of", "", self.examples.items[number])]

    def said(self, number: int) -> dict[str, Any]:
        """Return id, label and text of an example: of its tokens, else what else its table has."""
        row = self.table.row(number, named=True)
        label = row.get("label")
        others = {name: one for name, one in row.items() if name not in _NOT_SHOWN}
        text = "; ".join(f"{name}: {one}" for name, one in others.items())
        if hasattr(self.task, "tokens_of"):
            text = "".join(self.tokens(number))
        return {
            "example_id": str(row["example_id"]),
            "label": None if label is None else str(label),
            "text": text,
        }


def _parts(
    setup: AuditSetup, scorer: GroupedScorer, lengths: Mapping[int, int]
) -> dict[int, TokenScores]:
    """Return the scores of some examples by token; none where scores have no parts.

    Args:
        setup: Of the audit.
        scorer: Of the queries.
        lengths: Number of an example -> tokens of its sequence.
    """
    parts: dict[int, TokenScores] = {}
    for group in scorer.groups:
        # In a line: what it holds makes room for the next group.
        found = token_scores(
            scorer.prepared(group).responses, setup.engine.of_layers(group), lengths
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
    own = _numbers(wanted, setup.queries.ids)
    return _Shown(setup.inputs.task, setup.queries.subset(own), setup.inputs.query_table[own])


def _numbers(wanted: Sequence[str], ids: Sequence[str]) -> list[int]:
    """Return the numbers of queries.

    Raises:
        InputError: If one is unknown.
    """
    places = {name: number for number, name in enumerate(ids)}
    unknown = [name for name in wanted if name not in places]
    if unknown or not wanted:
        near = {one for name in unknown for one in get_close_matches(name, ids, cutoff=0.5)}
        which = (
            f"There is no query {format_names(map(repr, unknown))}" if unknown else "Name a query"
        )
        like = "the nearest are" if near else "the first are"
        raise InputError(
            f"{which} among the {format_noun(len(ids), 'query', 'queries')} of this audit: {like} "
            f"{format_names(map(repr, sorted(near) or ids))}. Take names of the column example_id "
            "of query_table, or hand over queries of your own with --text or --file."
        )
    return [places[name] for name in wanted]


def _further(task: Task, asked: Asked) -> _Shown:
    """Return queries that were not audited, as the task makes them."""
    if not hasattr(task, "queries_of"):
        raise InputError(
            f"{type(task).__name__} has no queries_of(source), which makes queries of rows; "
            "expected one for --text and --file. Add it, derive the task from an adapter such as "
            "TextData (docs/data.md), or name queries of the audit."
        )
    items, table = call(task, "queries_of", "", asked.source)
    return _Shown(task, Examples(items, table["example_id"].to_list(), task.collate), table)


def _first(gains: Tensor, count: int) -> list[list[int]]:
    """Return the examples with the largest gains above 0 of each query, [Q, N]."""
    # Of equal ones the first: the same at every run.
    values, numbers = gains.sort(dim=1, descending=True, stable=True)
    return [own[gain > 0][:count].tolist() for gain, own in zip(values, numbers, strict=True)]


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
