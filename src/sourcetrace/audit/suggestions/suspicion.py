"""How wrong an example's label looks to the model without the example itself.

A network that has memorised a wrong label believes it: its loss is small. What the example did to
that loss, its self-influence s, is known, so it is taken off: of the given label's margin m = log
p - log(1 - p) by s / (1 - p), for a margin changes the cross-entropy by 1 - p; any other loss
becomes loss + s. What the example did by checkpoint k of a run is taken as the share of the run's
steps until then. The mean is over the half of the checkpoints that predict the queries best:
before, the model knows too little, and behind them it has memorised (margins over checkpoints:
Pleiss et al. 2020, area under the margin).

Of classes, harm is heard too: the log odds of `suspicion` are minus the mean margin, and half of
harm over its error, which is bounded. So the harm of a suspect is a little larger than it would be
on other queries: what a cleaning is worth is for retraining to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit, logit

from sourcetrace.audit.suggestions.false_discovery import false_discovery
from sourcetrace.schemas.suspicion import Suspicions
from sourcetrace.schemas.table import beside

_Array = np.ndarray[Any, Any]

_LEAST = 1e-6
"""Probabilities nearer to 0 or 1 are rounding."""

_HARM_WEIGHT, _MOST_ERRORS = 0.5, 3.0
_AS_BAD = 0.95
"""Suspicion is one half where an example is as bad as this share of what is held out."""


def weigh_evidence(
    train_table: pl.DataFrame,
    checkpoint_manifest: pl.DataFrame,
    example_signals: pl.LazyFrame,
    query_history: pl.DataFrame,
    query_influence: pl.LazyFrame,
    self_influence: pl.LazyFrame,
) -> pl.DataFrame:
    """Return `schemas.Suspicions` of the examples with an influence, in the training table's order.

    Examples without labels have harm alone: their suspicion is its rank.
    """
    examples = self_influence.lazy().collect()  # of those that were not set aside
    given = train_table.select("example_id", given="label")
    harms = query_influence.lazy().select("example_id", "harm", "harm_error")
    for other in (given, harms.collect()):
        examples = beside(examples, other)
    errors = (pl.col("harm") / pl.col("harm_error")).fill_nan(0.0)
    harm = examples.select(errors.clip(-1e6, 1e6)).to_series().to_numpy()
    chances: _Array | None = None
    labels: pl.Series | None = None
    if examples["given"].is_null().all():
        found, why = false_discovery(harm, np.zeros(0))
        ranks = examples.select((pl.col("harm").rank() - 1) / max(1, examples.height - 1))
        suspicion = ranks.to_series().to_numpy()
    else:
        history = _History.of(
            examples.select("example_id"),
            checkpoint_manifest,
            example_signals.lazy(),
            query_history,
        )
        evidence = history.evidence(examples["self_influence"].to_numpy())
        labels = history.other_labels(examples)
        added = None
        if history.has_classes:
            added = _HARM_WEIGHT * np.clip(harm, -_MOST_ERRORS, _MOST_ERRORS)
            suspicion, chances = expit(evidence + added), expit(-evidence)
        else:
            held_out = history.queries if len(history.queries) else evidence
            suspicion = evidence / (evidence + np.quantile(held_out, _AS_BAD))
        found, why = false_discovery(evidence, history.queries, harm=added)
    return (
        examples.select("example_id")
        .with_columns(
            suspicion=pl.Series(np.nan_to_num(suspicion)),
            false_discovery=pl.Series(found),
            corrected_probability=pl.Series(chances, dtype=pl.Float64)
            if chances is not None
            else pl.lit(None, pl.Float64),
            other_label=pl.lit(None, pl.String) if labels is None else labels,
            exploratory=pl.lit(why),
        )
        .select(list(Suspicions.columns()))
    )


@dataclass(frozen=True)
class _History:
    """What the model said at the K checkpoints that predict the queries best, read one at a time.

    Attributes:
        has_classes: Whether labels have a probability.
        grown: These checkpoints, and the share of its run's steps until each.
        ends: The last checkpoint of every run.
        ids: `example_id` of the examples, [N].
        signals: `schemas.ExampleSignals`.
        queries: How bad the queries' labels look, as `looks` says it, [Q].
    """

    has_classes: bool
    grown: Mapping[str, float]
    ends: Sequence[str]
    ids: pl.DataFrame
    signals: pl.LazyFrame
    queries: _Array

    @classmethod
    def of(
        cls,
        ids: pl.DataFrame,
        manifest: pl.DataFrame,
        example_signals: pl.LazyFrame,
        query_history: pl.DataFrame,
    ) -> "_History":
        """Choose the checkpoints, among those at which every example was measured."""
        known = pl.col("given_label_probability").is_not_null()
        points = example_signals.group_by("checkpoint_id").agg(pl.len(), known=known.any())
        measured = points.collect(engine="streaming")
        everywhere = measured.filter(pl.col("len") == ids.height)["checkpoint_id"]
        best = (
            query_history.filter(pl.col("checkpoint_id").is_in(everywhere.implode()))
            .group_by("checkpoint_id", maintain_order=True)
            .agg(pl.col("loss").mean())
            .sort("loss", maintain_order=True)
        )
        kept = best["checkpoint_id"].head((best.height + 1) // 2).to_list()
        has_classes = bool(measured["known"].any())
        held_out = query_history.filter(known) if has_classes else query_history
        steps = dict(
            manifest.select(
                "checkpoint_id", pl.col("step") / pl.col("step").max().over("run")
            ).iter_rows()
        )
        names = held_out.select("example_id").unique(maintain_order=True)
        queries = (
            _looks(beside(names, held_out.filter(checkpoint_id=one)), classes=has_classes)
            for one in kept
        )
        return cls(
            has_classes,
            # A point that stands for several checkpoints ends with the last.
            {one: steps.get(one.rsplit("+", 1)[-1], 1.0) for one in kept},
            manifest.group_by("run", maintain_order=True).last()["checkpoint_id"].to_list(),
            ids,
            example_signals,
            _mean(queries),
        )

    def looks(self, checkpoint: str) -> _Array:
        """Return how bad the given labels look at a checkpoint, [N].

        Minus their margin, or the root of twice the loss, which is the error where the loss is half
        its square.
        """
        columns = "example_id", "loss", "given_label_probability"
        rows = self.signals.filter(checkpoint_id=checkpoint).select(columns).collect()
        return _looks(beside(self.ids, rows), classes=self.has_classes)

    def evidence(self, self_influence: _Array) -> _Array:
        """Return the mean over the checkpoints without the example itself, [N]."""
        own = np.maximum(self_influence, 0)
        if self.has_classes:
            doubt = np.maximum(expit(_mean(map(self.looks, self.ends))), _LEAST)
            return _mean(self.looks(one) + grown * own / doubt for one, grown in self.grown.items())
        return _mean(
            np.sqrt(self.looks(one) ** 2 + 2 * grown * own) for one, grown in self.grown.items()
        )

    def other_labels(self, examples: pl.DataFrame) -> pl.Series | None:
        """Return the label that most of the checkpoints say instead, null where they do not."""
        if not self.has_classes:
            return None
        said = (
            self.signals.filter(pl.col("checkpoint_id").is_in(list(self.grown)))
            .group_by("example_id", "predicted_label")
            .len()
            .filter(2 * pl.col("len") > len(self.grown))
            .collect(engine="streaming")
        )
        joined = examples.join(said, on="example_id", how="left", maintain_order="left")
        other = pl.col("predicted_label") != pl.col("given")
        return joined.select(pl.when(other).then("predicted_label")).to_series()


def _looks(rows: pl.DataFrame, *, classes: bool) -> _Array:
    if classes:
        return -_margin(rows["given_label_probability"])
    errors: _Array = np.sqrt(2 * np.maximum(rows["loss"].to_numpy(), 0))
    return errors


def _mean(arrays: Iterable[_Array]) -> _Array:
    """Return the mean of arrays of which one at a time is in memory."""
    count, total = 0, np.zeros(0)
    for one in arrays:
        count, total = count + 1, total + one if count else one
    return total / max(1, count)


def _margin(probability: pl.Series) -> _Array:
    # Nothing speaks against a label that is not there.
    found: _Array = logit(
        probability.cast(pl.Float64).fill_null(1.0).to_numpy().clip(_LEAST, 1 - _LEAST)
    )
    return found
