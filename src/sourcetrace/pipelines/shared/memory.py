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
    *,
    queries: int,
    device: torch.device,
) -> tuple[MemoryNeeds, int]:
    """Return what an audit holds in memory, if that is free, and the bytes that are.

    Args:
        model: The model.
        layers: The attributed layers.
        plan: What is evaluated.
        queries: Q.
        device: Where it is to be held.

    Raises:
        InputError: If the least that it takes is more than is free.
    """
    # Those of other devices are kept in the machine's memory.
    kept = KEPT_BYTES if device.type == "cpu" else 0
    needs = MemoryNeeds.of(model, layers, plan, queries=queries, kept=kept)
    free = free_memory(device)
    if needs.least > free:
        name, each = needs.largest
        raise InputError(
            f"The audit needs at least {format_bytes(needs.least)} of memory, but "
            f"{format_bytes(free)} are free on {device}: {format_bytes(needs.weights)} for "
            f"weights, {format_bytes(needs.covariances)} for the covariances of "
            f"{format_noun(len(plan.points), 'point')}, then {format_bytes(needs.curvature)} for "
            f"the curvature of {format_noun(len(plan.segments), 'segment')} in their place. Audit "
            "fewer checkpoints or set segments.count lower, freeze layers that need no attribution "
            f"(requires_grad_(False) in build_model(); {name!r} alone takes {format_bytes(each)} a "
            "point), or give the process more memory (ulimit -v and a container's limit count)."
        )
    if needs.most > free:
        logger.warning(
            "Scores may take %s of memory, but %s are free: the responses of the queries are "
            "written out where low-rank sums do not pay. Audit fewer queries at a time or set "
            "segments.count lower should memory run out",
            format_bytes(needs.most),
            format_bytes(free),
        )
    return needs, free
