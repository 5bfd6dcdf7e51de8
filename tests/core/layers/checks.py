"""Captured gradients held against autograd, for any model and any layout of its batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.per_example import LayerGradient
from sourcetrace.core.layers.discovery import Coverage, find_layers
from tests.oracles.dense import named_gradients
from tests.tiny import assert_close

Run = Callable[[Tensor], Tensor]
"""Examples, first dimension first -> outputs, [N, …]."""


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def sum_of_sines(outputs: Tensor) -> Tensor:
    """A loss with another gradient at every output, [N]."""
    values = outputs.flatten(1)
    return (values * (1 + torch.arange(values.shape[1], dtype=values.dtype))).sin().sum(1)


def coverage_of(model: nn.Module, inputs: Tensor, run: Run | None = None) -> Coverage:
    run = run or model
    return find_layers(model, lambda: run(inputs[:2]), examples=len(inputs[:2]))


def passed(
    model: nn.Module, inputs: Tensor, run: Run | None = None
) -> tuple[Coverage, ForwardPass]:
    run = run or model
    coverage = coverage_of(model, inputs, run)
    captured = ForwardPass(model, coverage.layers, lambda: run(inputs), examples=len(inputs))
    return coverage, captured


def gradients_of(
    model: nn.Module, inputs: Tensor, run: Run | None = None
) -> tuple[Coverage, dict[str, LayerGradient]]:
    coverage, captured = passed(model, inputs, run)
    outputs = captured.output_gradients(sum_of_sines(captured.outputs), last=True)
    return coverage, captured.gradients(captured.inputs(), outputs)


def check_gradients_of(model: nn.Module, inputs: Tensor, run: Run | None = None) -> Coverage:
    """Every layer's gradients equal one autograd call an example; return the coverage."""
    run = run or model
    coverage, found = gradients_of(model, inputs, run)
    names = [name for layer in coverage.layers for name in layer.parameters]

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(run(inputs[example : example + 1])).sum()

    expected = named_gradients(model, names, loss_of, len(inputs))
    largest = max(float(value.abs().max()) for one in expected for value in one.values())
    assert largest > 0
    for layer in coverage.layers:
        matrices = torch.stack([layer.weight_matrix(one) for one in expected])
        assert found[layer.name].dense().shape == matrices.shape
        difference = float((found[layer.name].dense() - matrices).abs().max())
        # Of the layer's own largest; rounding of the others where its gradient is 0, as that of
        # a key's bias in attention is.
        bound = max(float(matrices.abs().max()), 1e-3 * largest)
        assert difference <= 1e-10 * bound, f"{layer.name}: off by {difference:.3g}"
    return coverage


def check_covariances(model: nn.Module, inputs: Tensor, name: str, run: Run | None = None):
    """Return a layer's A and G, the same for every batch size."""
    coverage = coverage_of(model, inputs, run)
    (layer,) = [layer for layer in coverage.layers if layer.name == name]
    found = []
    for size in (len(inputs), 2):
        running = RunningCovariances()
        for part in inputs.split(size):
            _, captured = passed(model, part, run)
            outputs = captured.output_gradients(sum_of_sines(captured.outputs), last=True)
            values, pixels = captured.inputs()[name], captured.pixels().get(name)
            running.add({name: [CovarianceTerms.of(layer, values, outputs[name], pixels=pixels)]})
        found.append(running.sums()[name].compute())
    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])
    return found[0]


def check_all_counted(coverage: Coverage, model: nn.Module) -> None:
    """Every parameter is attributed or named, and none is both."""
    attributed = [name for layer in coverage.layers for name in layer.parameters]
    named = attributed + [one.name for one in coverage.unattributed]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes = [layer.size for layer in coverage.layers]
    assert sum(sizes) + sum(one.size for one in coverage.unattributed) == total
    assert abs(coverage.share - sum(sizes) / total) < 1e-12
