"""Where a segment may end: between checkpoints whose gradients have little in common.

Source averages gradients and curvature over a segment. That is a gain while they stay alike, for a
mean is less noisy, and a loss where they do not. The drift between checkpoints k and k + 1,

    Σ_m ‖g_k(m) − g_{k+1}(m)‖² / Σ_m (‖g_k(m)‖² + ‖g_{k+1}(m)‖²) ,

is 0 for equal gradients, 1 for unrelated ones, or where one of them has vanished, and at most 2.
Automatic segments end where it exceeds `LARGEST_DRIFT`.

*Derived*; the threshold was chosen on four retrained ground truths (docs/reference/results.md).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.per_example import Gradients, bytes_of, concatenate, squared_norms
from sourcetrace.core.machine.memory import free_memory
from sourcetrace.core.model.examples import EvaluationPoint, draws_at, spread
from sourcetrace.core.training.segments import CheckpointRecord

LARGEST_DRIFT = 0.6

EXAMPLES = 256
"""Training examples of a stage whose gradients are compared, memory allowing."""

_SAMPLE_BYTES = 2**29
"""Bound on the gradients of a checkpoint, were all of them dense."""

_KEPT_BYTES = 2**30
"""Bound on them as they are kept, unless that is fewer than `_FEWEST` examples."""

_FEWEST = 4

_ROWS = 64
"""Examples a forward pass, where they fit."""

_PASSES = 16
"""What a pass of an example takes at most, in units of its gradients as they are kept."""

_DENSE_BYTES = 64 * 2**20
"""Bound on one dense gradient tensor."""


def gradient_drift(before: Gradients, after: Gradients) -> float:
    """Return the drift between the gradients of the same examples at two checkpoints."""
    squares = (squared_norms(before) + squared_norms(after)).double()
    known = squares.isfinite()  # what has no gradient says nothing
    whole = float(squares[known].sum())
    return 1 - 2 * float(_inner_products(before, after)[known].sum()) / whole if whole else 0.0


def measure_drifts(
    engine: GradientEngine,
    records: Iterable[CheckpointRecord],
    stage_examples: Mapping[str, Tensor],
) -> Iterator[float]:
    """Yield the drift from each checkpoint to the next; 2, the largest, between stages.

    Args:
        engine: The training gradients.
        records: Checkpoints in order.
        stage_examples: Stage -> numbers of its training examples, increasing.
    """
    before: Gradients | None = None
    stage = ""
    for record in records:
        gradients = _gradients(engine, record, stage_examples[record.stage])
        if before is not None:
            yield gradient_drift(before, gradients) if record.stage == stage else 2.0
        before, stage = gradients, record.stage


def segment_ends(records: Sequence[CheckpointRecord], drifts: Sequence[float]) -> list[int]:
    """Return the steps of the checkpoints behind which a segment ends, the last one left out."""
    return [
        record.step
        for record, drift in zip(records[:-1], drifts, strict=True)
        if drift > LARGEST_DRIFT
    ]


def _gradients(engine: GradientEngine, record: CheckpointRecord, examples: Tensor) -> Gradients:
    chosen = spread(examples, engine.affordable(most=EXAMPLES, limit=_SAMPLE_BYTES))
    point = EvaluationPoint(record.id, (record.id,), chosen, chosen, draws=draws_at(record.step))
    each = bytes_of(sample_gradients(engine, point, chosen[:1]))
    chosen = spread(chosen, max(_FEWEST, _KEPT_BYTES // each))
    rows = min(_ROWS, max(1, free_memory(engine.device) // (_PASSES * each)))
    return concatenate(
        [sample_gradients(engine, point, part) for part in torch.split(chosen, rows)]
    )


def _inner_products(before: Gradients, after: Gradients) -> Tensor:
    """Return ⟨g(m), g'(m)⟩ over all layers, [M], a few examples written out at a time."""
    total: Tensor | float = 0.0
    for name, gradients in before.items():
        other = after[name]
        count = len(gradients)
        one = other.rows(torch.arange(1)).dense()
        step = max(1, _DENSE_BYTES // (one.numel() * one.element_size()))
        products = [
            gradients.rows(rows).paired_products(other.rows(rows).dense())
            for rows in torch.split(torch.arange(count), step)
        ]
        total = total + torch.cat(products).double()
    return torch.as_tensor(total)
