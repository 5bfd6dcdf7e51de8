"""The Gauss–Newton matrix written out: a Jacobian and a Hessian an example."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def gauss_newton_matrix(
    model: nn.Module,
    names: Sequence[str],
    outputs_of: Callable[[nn.Module, Mapping[str, Tensor], int], Tensor],
    loss_of: Callable[[Tensor, int], Tensor],
    examples: int,
) -> Tensor:
    """Return the mean over examples of Jᵀ H_out J, [P, P], P the named parameters flattened.

    Args:
        model: The model.
        names: Its parameters, in the order of the rows.
        outputs_of: Model, parameters and the number of an example -> its outputs, flat.
        loss_of: Outputs and the number of an example -> its loss.
        examples: How many there are.
    """
    parameters = {name: model.get_parameter(name).detach() for name in names}
    total: Tensor | float = 0.0
    for example in range(examples):

        def outputs(tensors: dict[str, Tensor], example: int = example) -> Tensor:
            return outputs_of(model, tensors, example)

        def loss(values: Tensor, example: int = example) -> Tensor:
            return loss_of(values, example)

        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.func.jacrev(outputs)(parameters)
        rows = torch.cat([jacobian[name].flatten(1) for name in names], dim=1)
        values = outputs(parameters).detach()
        hessian = torch.func.jacrev(torch.func.grad(loss))(values)
        total = total + rows.T @ hessian @ rows
    return total / examples
