"""One use of a layer's site in a forward pass: what came in, and where to ask for gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sourcetrace.errors import InputError

WITHOUT_GRADIENTS = (
    "ran without gradients, so that no gradient of the output can be asked for: inside "
    "torch.no_grad(), or in torch.utils.checkpoint with use_reentrant=True. Use "
    "use_reentrant=False, or freeze its parameters."
)
"""What to say of layers whose output has no gradient, behind their names."""


@dataclass(frozen=True)
class Call:
    """One use of a site.

    Attributes:
        inputs: What came in, detached.
        version: Of the inputs then; another one now means a change in place.
        output: Where autograd can be asked for the output's gradient.
        output_shape: How that gradient is to be viewed.
        groups: The site's groups that were used, first and last plus one; None for all.
    """

    inputs: Tensor
    version: int
    output: GradientEdge
    output_shape: torch.Size
    groups: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        inputs: Tensor,
        output: Tensor,
        *,
        output_shape: torch.Size | None = None,
        groups: tuple[int, int] | None = None,
    ) -> "Call":
        """Return the call of a site.

        Raises:
            InputError: If it ran without gradients.
        """
        if not output.requires_grad:
            raise InputError(f"{name} {WITHOUT_GRADIENTS}")
        # The edge, not the tensor: an in-place activation would change the tensor's own.
        edge = get_gradient_edge(output)
        return cls(inputs.detach(), inputs._version, edge, output_shape or output.shape, groups)
