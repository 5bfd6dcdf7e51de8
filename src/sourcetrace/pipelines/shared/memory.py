"""Whether an audit fits into memory, said before any pass."""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from sourcetrace.checkpoints.folder import KEPT_BYTES
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.machine.memory import free_memory
from sourcetrace.core.methods.memory_needs import MemoryNeeds, StageNeeds
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.errors import InputError
from sourcetrace.formats import format_bytes

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
    grouped: int | None = None,
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
        grouped: Bytes by which layers were grouped before; None for those that are free.

    Raises:
        InputError: If the least that it takes is more than is free.
    """
    # Those of other devices are kept in the machine's memory.
    kept = KEPT_BYTES if device.type == "cpu" else 0
    free = free_memory(device)
    free = free if most is None else min(free, most)
    by = free if grouped is None else grouped
    needs = MemoryNeeds.of(model, layers, plan, method, queries=queries, kept=kept, free=by)
    stage, need = max(needs.stages.items(), key=lambda one: one[1].least)
    if needs.least > free:
        together = f"all layers, which {method} takes at once"
        whose = f"{need.largest!r} alone" if need.largest else together
        raise InputError(
            f"{stage} needs at least {format_bytes(needs.least)} of memory, but "
            f"{format_bytes(free)} are free on {device}: {format_bytes(needs.weights)} for "
            f"weights, then {format_bytes(need.least)} for {whose}. {_remedies(needs, need)} "
            "or give the process more memory (gradients.memory_gib, ulimit -v and a container's "
            "limit count)."
        )
    return needs, free


def _remedies(needs: MemoryNeeds, need: StageNeeds) -> str:
    """Return what makes a stage take less."""
    layers = (
        "Leave wide layers out (attribution.layers.exclude), freeze what needs no attribution "
        "(requires_grad_(False) in build_model()),"
    )
    if need is not needs.scoring:
        return layers
    other = "" if need.largest else "Take source, which goes by groups of layers. "
    return f"{other}Audit fewer queries at a time, or set segments.count lower. {layers}"


def log_held(needs: MemoryNeeds, free: int) -> None:
    """Say what each stage will hold where; at length where it is not all layers in memory."""
    split = any(len(stage.groups) > 1 for stage in needs.stages.values())
    logger.log(
        logging.INFO if split else logging.DEBUG,
        "Memory: %s may be taken, %s of it for weights. %s",
        format_bytes(free),
        format_bytes(needs.weights),
        ". ".join(f"{stage} holds {_said(need)}" for stage, need in needs.stages.items()),
    )


def _said(need: StageNeeds) -> str:
    held, count = format_bytes(need.held), len(need.groups)
    if count > 1:
        held += f" at most, {count} groups of layers one after the other with passes of their own"
    return held
