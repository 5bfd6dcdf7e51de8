"""What a loss is: a value and a curvature at the outputs."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sourcetrace.errors import InputError


class Loss:
    """The loss of one part of an example: of its label, of a token, of one of its outputs.

    Outputs are [B, …], and [B, …, P] where a part has several (`several_outputs`); targets are
    [B, …]. A loss of one output defines `value` and `curvature`, another `value` and `root`.

    Attributes:
        several_outputs: Whether the last dimension of the outputs belongs to one part.
        exact: Whether the curvature is the Hessian of `value`, or stands in for one that is
            0 or has negative eigenvalues.
    """

    several_outputs: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    @property
    def needs_targets(self) -> bool:
        """Whether the curvature is another one with other targets."""
        return True

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every part, [B, …]."""
        raise NotImplementedError

    def curvature(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the second derivative of every part's loss by its output, ≥ 0, [B, …]."""
        raise NotImplementedError

    def root(self, outputs: Tensor, targets: Tensor, signs: Tensor) -> Tensor:
        """Return B ε of every part, where B Bᵀ is the Hessian at its outputs.

        A residual drawn from a normal has the mean square of a random sign on average; a sign has
        it in every draw, so that one output has no sampling error at all.

        Args:
            outputs: Without a graph.
            targets: As of `value`.
            signs: ε, shaped as the outputs; B is independent of it.

        Raises:
            InputError: If a curvature is negative.
        """
        curvature = self.curvature(outputs, targets)
        if bool((curvature < 0).any()):
            raise InputError(
                f"{type(self).__name__}: the curvature of a target is "
                f"{float(curvature.min()):.3g}; expected 0 or more. Correct the targets (Gamma's "
                "and Tweedie's are 0 or more), or return another curvature and set exact = False."
            )
        return curvature.sqrt() * signs


def constant(values: float | Sequence[float], *, like: Tensor) -> Tensor:
    """Return numbers of a loss on the device and with the dtype of `like`."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)
