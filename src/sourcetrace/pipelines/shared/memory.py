"""Whether an audit fits into memory, said before any pass."""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from sourcetrace.checkpoints.folder import KEPT_BYTES
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.memory import free_memory
from sourcetrace.core.methods.memory_needs import MemoryNeeds
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes, format_noun

logger = logging.getLogger(__name__)


def refuse_too_large(
    model: nn.Module,
    layers: Sequence[Layer],
    plan: AttributionPlan,
    method: str,
    *,
    queries: int,
    device: torch.device,
    most: int | None = None,
) -> tuple[MemoryNeeds, int]:
    """Return what an audit holds in memory, if that is free, and the bytes that are.

    Args:
        model: The model.
        layers: The attributed layers.
        plan: What is evaluated.
        method: Its name.
        queries: Q.
        device: Where it is to be held.
        most: Bytes that may be taken, even where more are free.

    Raises:
        InputError: If the least that it takes is more than is free.
    """
    # Those of other devices are kept in the machine's memory.
    kept = KEPT_BYTES if device.type == "cpu" else 0
    free = free_memory(device)
    free = free if most is None else min(free, most)
    needs = MemoryNeeds.of(model, layers, plan, method, queries=queries, kept=kept, free=free)
    if needs.least > free:
        name, each = needs.largest
        held = f"{format_bytes(each)} for the curvature and the responses of {name!r} alone"
        if needs.together:
            held = (
                f"{format_bytes(max(needs.curvature, needs.responses))} for the curvature and the "
                f"responses of all layers, which {method} takes at once"
            )
        raise InputError(
            f"The audit needs at least {format_bytes(needs.least)} of memory, but "
            f"{format_bytes(free)} are free on {device}: {format_bytes(needs.weights)} for "
            f"weights, {format_bytes(needs.point)} for the covariances of a point, then {held}. "
            f"Audit fewer queries at a time, set segments.count lower{_other_method(needs)}, "
            "freeze layers that need no attribution (requires_grad_(False) in build_model()), or "
            "give the process more memory (gradients.memory_gib, ulimit -v and a container's limit "
            "count)."
        )
    return needs, free


def _other_method(needs: MemoryNeeds) -> str:
    return ", take source, which goes by groups of layers" if needs.together else ""


def log_held(needs: MemoryNeeds, free: int) -> None:
    """Say what will be held where, if it is not all in memory."""
    fitting, scoring = len(needs.fitting_groups), len(needs.scoring_groups)
    if needs.covariances_wait or fitting > 1 or scoring > 1:
        logger.info(
            "Memory: %s may be taken. Covariances take %s a point, and curvature %s; what does not "
            "fit waits on disk. Layers are fitted in %s and scored in %s, each with passes of its "
            "own; %s alone takes %s",
            format_bytes(free),
            format_bytes(needs.point),
            format_bytes(needs.curvature),
            format_noun(fitting, "group"),
            format_noun(scoring, "group"),
            *(needs.largest[0], format_bytes(needs.largest[1])),
        )
