"""The checks of an audit's inputs, in their order; an audit and a preflight run the same ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.formats import (
    format_bytes,
    format_count,
    format_names,
    format_noun,
    format_share,
    format_span,
)
from sourcetrace.pipelines.checkpoint_ingest.losses import is_far_off
from sourcetrace.pipelines.checkpoint_ingest.training import Training


@dataclass(frozen=True)
class _Check:
    """One check.

    Attributes:
        title: What is checked.
        part: The part of an examination that is refused where the check fails.
        words: What to say of that part where it does not.
    """

    title: str
    part: str
    words: Callable[[Any], str]

    def run(self, examined: object) -> str:
        """Return what an `Examination` found.

        Raises:
            InputError: If it is refused.
        """
        return self.words(getattr(examined, self.part))


def _of_model(model: Any) -> str:
    size = sum(one.numel() for one in model.parameters())
    return f"{type(model).__name__}, {format_count(size)} parameters"


def _of_checkpoints(found: Sequence[Any]) -> str:
    kinds = {PurePosixPath(one.file).suffix or "folders" for one in found}
    names = format_names(one.file for one in found)
    return f"{format_noun(len(found), 'checkpoint')} ({', '.join(sorted(kinds))}): {names}"


def _of_training(runs: Sequence[Training]) -> str:
    said = []
    for run in runs:
        optimizers = sorted({record.optimizer for record in run.records})
        rates = [record.learning_rate for record in run.records]
        varying = (
            f"{min(rates):g} to {max(rates):g}" if min(rates) < max(rates) else f"{rates[0]:g}"
        )
        steps = format_span(run.records[0].step, run.records[-1].step)
        name = f"run {run.name}: " if run.name else ""
        said.append(
            f"{name}{', '.join(optimizers)}, steps {steps}, stages {' → '.join(run.stages)}, "
            f"learning rate {varying} at the checkpoints. Where from: {run.told_by}"
        )
    return "; ".join(said)


def _of_rates(runs: Sequence[Training]) -> str:
    said = []
    for run in runs:
        steps = [one for one in run.rates if one.first_step <= one.last_step]
        for source, same in groupby(steps, key=lambda one: one.source):
            first, *_, last = [*same] * 2
            span = format_span(first.first_step, last.last_step)
            said.append(f"{run.name} steps {span}: {source}".strip())
    return "; ".join(said)


def _of_table(table: pl.DataFrame) -> str:
    said = f"{format_noun(table.height, 'row')}; columns {', '.join(table.columns)}"
    labels = table["label"].drop_nulls()
    return f"{said}; {format_noun(labels.n_unique(), 'label')}" if len(labels) else said


def _of_stages(table: pl.DataFrame) -> str:
    counts = table["stage"].explode().value_counts(sort=True)
    return ", ".join(f"{format_noun(count, 'example')} of {name}" for name, count in counts.rows())


def _of_coverage(coverage: Coverage) -> str:
    return (
        f"{format_share(coverage.share)} of the parameters, in "
        f"{format_noun(len(coverage.layers), 'layer')}"
    )


def _of_curvature(share: float | None) -> str:
    if share is None:
        return "not compared: at outputs of 0, where it is compared, train_loss has no curvature"
    if is_far_off(share):
        return "compared at outputs of 0"  # the warning has the number
    return f"that of sampled_loss over that of train_loss: {share:.2f}"


def _of_digest(digest: Any) -> str:
    said = digest[0] if isinstance(digest, tuple) else digest
    return f"all {format_noun(said['rows'], 'item')} read; digest {said['digest']}"


def _of_segments(segments: Sequence[Any]) -> str:
    return "; ".join(f"{one.number}: {', '.join(one.checkpoints)}" for one in segments)


def _of_memory(found: tuple[MemoryNeeds, int]) -> str:
    needs, free = found
    most = f" to {format_bytes(needs.most)}" if needs.most > needs.least else ""
    return f"{format_bytes(needs.least)}{most}, and what a batch takes; {format_bytes(free)} free"


def _of_gradients(off: float) -> str:
    how = f"up to {off:.0e} of their size, in a layer" if off else "up to rounding"
    return f"the first examples' are those of autograd {how}"


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


_ALONE = "losses and gradients are the same alone and in a batch with others"

CHECKS: tuple[_Check, ...] = (
    _Check("device", "device", str),
    _Check("model", "model", _of_model),
    _Check("checkpoints", "found", _of_checkpoints),
    _Check("training", "runs", _of_training),
    _Check("learning rates", "rates", _of_rates),
    _Check("training table", "train_given", _of_table),
    _Check("query table", "query_table", _of_table),
    _Check("stages", "train_table", _of_stages),
    _Check("repeated reading", "same_at_each_reading", lambda _: "the same items at each reading"),
    _Check(
        "first examples", "tried", lambda _: "losses and measurement are finite, one an example"
    ),
    _Check("precision", "weights_dtype", lambda dtype: f"weights of {_name(dtype)}"),
    _Check("attribution", "coverage", _of_coverage),
    _Check("memory", "memory", _of_memory),
    _Check("gradients", "gradient_error", _of_gradients),
    _Check("queries alone", "queries_independent", lambda _: _ALONE),
    _Check("training examples alone", "training_independent", lambda _: _ALONE),
    _Check("curvature", "curvature", _of_curvature),
    _Check("training data", "training_digest", _of_digest),
    _Check("query data", "queries_digest", _of_digest),
    _Check("segments", "segments", _of_segments),
)
