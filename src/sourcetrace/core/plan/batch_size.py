"""How many examples a batch may have, from what some of them take and the memory that is free."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import probe_point
from sourcetrace.core.gradients.per_example import bytes_of
from sourcetrace.core.machine.memory import free_memory
from sourcetrace.core.model.examples import EvaluationPoint
from sourcetrace.core.plan.plan import AttributionPlan

SMALLEST, LARGEST = 16, 1024
"""Examples. Fewer leave the processor idle, and are for what does not fit, such as sequences with
a large vocabulary's logits; more make the products no faster."""

_PROBE = 8
"""Examples at most that say what one takes."""

_BLOCKS = 4
"""At least so many a pass over the examples, for a progress bar that says something."""

_SAFETY = 3
"""What a batch takes over what is counted: copies in another layout, products before they are
summed, examples longer than those of the probe."""

_SHARE = 0.5
"""Of the free memory, for a batch; the filtered queries, the curvature and kept gradients need
the rest."""


@dataclass(frozen=True)
class _BatchChoice:
    """A batch size and the reasons for it.

    Attributes:
        examples: A batch.
        bytes_per_example: What one takes, as counted on a probe.
        free_bytes: Memory that was free.
    """

    examples: int
    bytes_per_example: int
    free_bytes: int


def choose_batch_size(
    engine: GradientEngine, plan: AttributionPlan, *, queries: int, most: int | None = None
) -> _BatchChoice:
    """Choose the largest power of two that fits, up to `LARGEST` or a share of the examples.

    Args:
        engine: The gradients; a few of them are taken.
        plan: Says at how many points gradients are held at once.
        queries: Q.
        most: Bytes that may be taken, even where more are free.
    """
    free = free_memory(engine.device)
    free = free if most is None else min(free, most)
    each = _bytes_of_example(engine, plan, queries=queries)
    fits = int(_SHARE * free) // (_SAFETY * each)
    largest = max(SMALLEST, min(LARGEST, len(engine.training) // _BLOCKS))
    power = 1 << max(0, min(largest, fits).bit_length() - 1)
    return _BatchChoice(power, each, free)


def _bytes_of_example(engine: GradientEngine, plan: AttributionPlan, *, queries: int) -> int:
    """Return the bytes that a batch takes an example, where it takes most.

    That is in the passes, which hold what the backward passes need and both kinds of gradients, of
    every draw of sampled labels until their covariances are summed, or in scoring, which holds the
    gradients at all points of a member, and the scores.
    """
    point = plan.points[-1]
    # One alone first: more may not fit.
    passes, given, count = _bytes_of_passes(engine, point, examples=1)
    fits = int(_SHARE * free_memory(engine.device)) // (_SAFETY * passes)
    if fits > 1:
        passes, given, count = _bytes_of_passes(engine, point, examples=min(fits, _PROBE))
    points = max(
        1 + sum(len(segment.points) for segment in member.segments) for member in plan.members
    )
    segments = max(len(member.segments) for member in plan.members)
    scores = count * segments * (queries + 1) * engine.dtype.itemsize
    return -(-max(passes, points * given + scores) // count)


def _bytes_of_passes(
    engine: GradientEngine, point: EvaluationPoint, *, examples: int
) -> tuple[int, int, int]:
    """Return the bytes of a batch's passes, of the given labels' gradients, and its examples."""
    with _saved_bytes(engine.model_at(point)) as saved:
        found = probe_point(engine, point, examples=examples)
    given, sampled = bytes_of(found.gradients), bytes_of(found.sampled)
    return saved() + given + engine.draws * sampled, given, len(found.signals.examples)


@contextmanager
def _saved_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Give what tells the bytes that autograd saved in the context, the model's own left out."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # views share what they view
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        yield lambda: sum(sizes.values())
