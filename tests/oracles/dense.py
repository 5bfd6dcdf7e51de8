"""Per-example gradients, Kronecker factors and functions of a matrix, written out densely.

A layer's gradient is laid out as [groups, D_out, D_in] with the bias as the last column; of a
convolution's D_in the channels run fastest. A
gradient of a whole model is one row: its layers in order, each laid out so and flattened.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

LossOfExample = Callable[[int], Tensor]
"""Number of an example -> its loss, a scalar that depends on the model's parameters."""


def layer_gradients(module: nn.Module, loss_of: LossOfExample, examples: int) -> Tensor:
    """Return a layer's gradient of every example by one autograd call each."""
    parameters = list(module.parameters())
    rows = [torch.autograd.grad(loss_of(example), parameters) for example in range(examples)]
    groups = getattr(module, "groups", 1)
    channels = module.weight.shape[0] // groups
    weights = torch.stack([row[0] for row in rows]).movedim(2, -1)
    columns = [weights.reshape(examples, groups, channels, -1)]
    if module.bias is not None:
        bias = torch.stack([row[1] for row in rows])
        columns.append(bias.reshape(examples, groups, channels, 1))
    return torch.cat(columns, dim=-1)


def model_gradients(
    modules: Sequence[nn.Module], loss_of: LossOfExample, examples: int
) -> list[Tensor]:
    """Return the gradients of several layers, each as `layer_gradients` does."""
    return [layer_gradients(module, loss_of, examples) for module in modules]


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """Join the layers' gradients to one row an example, [N, P]."""
    return torch.cat([layer.flatten(1) for layer in gradients], dim=1)


def layer_inputs(module: nn.Module, values: Tensor) -> Tensor:
    """Return what one example's weight meets at every position, [groups, S, D_in].

    Read off the layer itself: its output is linear in the weight, so the derivative of
    output channel o at position s by row o of the weight is the input there. Padding, stride
    and dilation need no second implementation.
    """
    parameters = {key: p.detach() for key, p in module.named_parameters()}

    def outputs(tensors: dict[str, Tensor]) -> Tensor:
        return _positions(module, torch.func.functional_call(module, tensors, (values,)))

    derivative = torch.func.jacrev(outputs)(parameters)
    groups = getattr(module, "groups", 1)
    channels = module.weight.shape[0] // groups
    rows = []
    for group in range(groups):
        channel = group * channels
        row = [derivative["weight"][:, channel, channel].movedim(1, -1).flatten(1)]
        if module.bias is not None:
            row.append(derivative["bias"][:, channel, channel].unsqueeze(1))
        rows.append(torch.cat(row, dim=1))
    return torch.stack(rows)


def layer_output_gradients(
    module: nn.Module, loss_of: LossOfExample, example: int
) -> tuple[Tensor, Tensor]:
    """Return one example's input of a layer and its output gradients [groups, S, D_out].

    The gradient is that of a shift added to the output, whatever is done to it afterwards.
    """
    seen: dict[str, Tensor] = {}

    def shifted(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["input"] = arguments[0].detach().clone()
        seen["shift"] = torch.zeros_like(output, requires_grad=True)
        return output + seen["shift"]

    handle = module.register_forward_hook(shifted)
    loss = loss_of(example)
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, seen["shift"])
    positions = _positions(module, gradient)
    groups = getattr(module, "groups", 1)
    split = positions.reshape(len(positions), groups, -1).transpose(0, 1)
    return seen["input"], split


def kronecker_factors(
    module: nn.Module, loss_of: LossOfExample, examples: int
) -> tuple[Tensor, Tensor]:
    """Return A [groups, D_in, D_in] and G [groups, D_out, D_out], one outer product at a time.

    A is over the positions whose g is not 0, by group.
    """
    activation: Tensor | float = 0.0
    pseudo_gradient: Tensor | float = 0.0
    for example in range(examples):
        values, gradients = layer_output_gradients(module, loss_of, example)
        inputs = layer_inputs(module, values)
        for position in range(inputs.shape[1]):
            a, g = inputs[:, position], gradients[:, position]
            a = torch.where((g != 0).any(-1, keepdim=True), a, 0)
            activation = activation + torch.stack([torch.outer(row, row) for row in a])
            pseudo_gradient = pseudo_gradient + torch.stack([torch.outer(row, row) for row in g])
    return activation / examples, pseudo_gradient / examples


def ekfac_matrix(activation: Tensor, pseudo_gradient: Tensor, gradients: Tensor) -> Tensor:
    """Return (Q_G ⊗ Q_A) diag(Λ) (Q_G ⊗ Q_A)ᵀ of one group, [D_out · D_in, D_out · D_in].

    Args:
        activation: A, [D_in, D_in].
        pseudo_gradient: G, [D_out, D_out].
        gradients: With sampled labels, [N, D_out, D_in]; Λ is the mean square of their
            coordinates.
    """
    basis = torch.kron(torch.linalg.eigh(pseudo_gradient)[1], torch.linalg.eigh(activation)[1])
    eigenvalues = (gradients.flatten(1) @ basis).square().mean(0)
    return basis @ torch.diag(eigenvalues) @ basis.T


def layer_ekfac_matrix(
    factors: Sequence[tuple[Tensor, Tensor]], gradients: Sequence[Tensor]
) -> Tensor:
    """Return a layer's EK-FAC matrix over a segment, its groups as diagonal blocks.

    Args:
        factors: A and G at each checkpoint, [groups, D, D].
        gradients: With sampled labels at each checkpoint, [N, groups, D_out, D_in].
    """
    activation = sum(a for a, _ in factors) / len(factors)
    pseudo_gradient = sum(g for _, g in factors) / len(factors)
    everything = torch.cat(list(gradients))
    blocks = [
        ekfac_matrix(activation[group], pseudo_gradient[group], everything[:, group])
        for group in range(len(activation))
    ]
    return torch.block_diag(*blocks)


def matrix_function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return f(H) of a symmetric matrix by its own eigendecomposition."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(function(eigenvalues)) @ vectors.T


def matrix_propagation(matrix: Tensor, step_mass: float) -> Tensor:
    """Return exp(-τH)."""
    return torch.linalg.matrix_exp(-step_mass * matrix)


def matrix_response(matrix: Tensor, step_mass: float) -> Tensor:
    """Return ∫₀^τ exp(-sH) ds = (I - exp(-τH)) H⁻¹, also where H has no inverse.

    It is the upper right block of the exponential of τ [[-H, I], [0, 0]] (Van Loan 1978).
    """
    size = len(matrix)
    joined = matrix.new_zeros(2 * size, 2 * size)
    joined[:size, :size] = -matrix
    joined[:size, size:] = torch.eye(size, dtype=matrix.dtype)
    return torch.linalg.matrix_exp(step_mass * joined)[:size, size:]


def named_gradients(
    model: nn.Module, names: Sequence[str], loss_of: LossOfExample, examples: int
) -> list[dict[str, Tensor]]:
    """Return the gradients of named parameters by one autograd call an example."""
    parameters = [model.get_parameter(name) for name in names]
    return [
        dict(zip(names, torch.autograd.grad(loss_of(example), parameters), strict=True))
        for example in range(examples)
    ]


def _positions(module: nn.Module, output: Tensor) -> Tensor:
    """Lay out one example's layer output as [S, C_out]."""
    if isinstance(module, nn.Conv2d):
        return output[0].flatten(1).T
    return output.reshape(-1, output.shape[-1])
