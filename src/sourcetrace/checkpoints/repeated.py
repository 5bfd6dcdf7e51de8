"""Checkpoints that a run saved twice, such as Lightning's `last.ckpt`."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sourcetrace.checkpoints.folder import Checkpoint, CheckpointFolder

logger = logging.getLogger(__name__)


def without_repeated(
    found: Sequence[Checkpoint], folder: CheckpointFolder, model: nn.Module
) -> list[Checkpoint]:
    """Leave out, and name, what has step and weights of another checkpoint of its run.

    Of two, the one is left out beside which the steps do not rise.

    Args:
        found: The checkpoints, in the order in which they were read.
        folder: Where their weights are.
        model: The model.
    """

    def weights(one: Checkpoint) -> Mapping[str, Tensor]:
        return one.state_dict or folder.weights(one.file, one.sha256, model)

    out: set[str] = set()
    for place, one in enumerate(found):
        for other_place, other in enumerate(found[:place]):
            if other.file in out or _place(other) != _place(one):
                continue
            if _same(weights(other), weights(one)):
                between = found[other_place + 1 : place]
                astray = any(each.record.step < one.record.step for each in between)
                left, kept = (other, one) if astray else (one, other)
                out.add(left.file)
                logger.info("%s is left out: step and weights of %s", left.file, kept.file)
    return [one for one in found if one.file not in out]


def _place(one: Checkpoint) -> tuple[str, int]:
    return one.record.run, one.record.step


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )
