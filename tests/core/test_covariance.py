"""A and G against sums of outer products, position by position."""

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.capture import capture_forward
from sourcetrace.core.covariance import CovarianceSums, mean_covariances, merge
from sourcetrace.core.layers import Layer, find_layers
from tests.oracles.dense import kronecker_factors
from tests.tiny import assert_close, seeded


def sum_of_sines(outputs: Tensor) -> Tensor:
    values = outputs.flatten(1)
    return (values * (1 + torch.arange(values.shape[1], dtype=values.dtype))).sin().sum(1)


MODELS = {
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "linear at several positions": (lambda: nn.Linear(3, 2, bias=False), (4, 3)),
    "convolution": (lambda: nn.Conv2d(2, 3, 2, stride=2, padding=1), (2, 4, 5)),
    "convolution in groups": (lambda: nn.Conv2d(4, 6, (2, 1), groups=2), (4, 3, 3)),
}


def prepared(name: str, examples: int = 7) -> tuple[nn.Sequential, Layer, Tensor]:
    build, shape = MODELS[name]
    with seeded(11):
        model = nn.Sequential(build(), nn.Tanh()).double()
        inputs = torch.randn(examples, *shape, dtype=torch.float64)
    (layer,) = find_layers(model, lambda: model(inputs)).layers
    return model, layer, inputs


def sums_of(model: nn.Module, layer: Layer, inputs: Tensor) -> CovarianceSums:
    passed = capture_forward(model, [layer], lambda: model(inputs))
    gradients = passed.output_gradients(sum_of_sines(passed.outputs), last=True)
    return CovarianceSums.of(layer, passed.inputs()[layer.name], gradients[layer.name])


@pytest.mark.parametrize("name", MODELS)
def test_equal_the_sums_of_outer_products(name):
    model, layer, inputs = prepared(name)

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(inputs[example : example + 1])).sum()

    expected = kronecker_factors(model[0], loss_of, len(inputs))
    found = sums_of(model, layer, inputs).compute()
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


def test_sums_of_parts_merge_to_those_of_the_whole():
    model, layer, inputs = prepared("convolution in groups")
    total = None
    for part in inputs.split(3):
        total = merge(total, {"0": sums_of(model, layer, part)})
    whole = sums_of(model, layer, inputs)
    assert total["0"].examples == whole.examples == len(inputs)
    for found, expected in zip(total["0"].compute(), whole.compute(), strict=True):
        assert_close(found, expected)


def test_a_merge_leaves_what_it_adds():
    model, layer, inputs = prepared("linear")
    first, second = (sums_of(model, layer, part) for part in (inputs[:2], inputs[2:]))
    kept = [(one.activation.clone(), one.pseudo_gradient.clone()) for one in (first, second)]
    merge(merge(None, {"0": first}), {"0": second})
    for one, (activation, pseudo_gradient) in zip((first, second), kept, strict=True):
        assert torch.equal(one.activation, activation)
        assert torch.equal(one.pseudo_gradient, pseudo_gradient)


def test_float32_batches_are_summed_in_float64():
    _, layer, _ = prepared("linear")
    total = None
    large, small = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4)
    large[..., 0], small[..., 0] = 2.0**13, 1.0
    # 2²⁶ + 1 is not a float32: its running sum would never grow.
    for inputs in (large, small):
        total = merge(total, {"0": CovarianceSums.of(layer, inputs, torch.ones(1, 1, 1, 2))})
    assert total["0"].activation[0, 0, 0].item() == 2**26 + 1


def test_checkpoints_of_a_segment_count_alike_whatever_their_examples():
    model, layer, inputs = prepared("linear")
    few, many = (sums_of(model, layer, part) for part in (inputs[:2], inputs[2:]))
    for found, first, second in zip(
        mean_covariances([few, many]), few.compute(), many.compute(), strict=True
    ):
        assert_close(found, (first + second) / 2, tolerance=1e-14)
