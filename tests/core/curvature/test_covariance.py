"""A and G against sums of outer products, position by position."""

from collections.abc import Callable

import pytest
import torch
from benchmarks.multiplications import MultiplicationCounter
from torch import Tensor, nn

from sourcetrace.core.curvature import covariance, covariance_terms
from sourcetrace.core.curvature.covariance import (
    CovarianceSums,
    LayerTerms,
    RunningCovariances,
)
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.layer import Layer
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


def terms_of(model: nn.Module, layer: Layer, inputs: Tensor) -> LayerTerms:
    passed = ForwardPass(model, [layer], lambda: model(inputs))
    gradients = passed.output_gradients(sum_of_sines(passed.outputs), last=True)
    inputs, pixels = passed.inputs()[layer.name], passed.pixels().get(layer.name)
    return {layer.name: [CovarianceTerms.of(layer, inputs, gradients[layer.name], pixels=pixels)]}


def sums_of_model(
    model: nn.Module, layer: Layer, inputs: Tensor
) -> tuple[CovarianceSums, Callable[[int], Tensor]]:
    """Return the sums of a layer, and the loss of an example that they are of."""

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(inputs[example : example + 1])).sum()

    return RunningCovariances(terms_of(model, layer, inputs)).sums()[layer.name], loss_of


@pytest.mark.parametrize("name", MODELS)
def test_equal_the_sums_of_outer_products(name):
    model, layer, inputs = prepared(name)
    sums, loss_of = sums_of_model(model, layer, inputs)
    expected = kronecker_factors(model[0], loss_of, len(inputs))
    for found, one in zip(sums.compute(), expected, strict=True):
        assert_close(found, one)


@pytest.mark.parametrize("enough", [1, 4, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_batches_add_up_to_the_whole_whenever_they_are_multiplied(name, enough, monkeypatch):
    monkeypatch.setattr(covariance, "_ENOUGH", enough)
    model, layer, inputs = prepared(name)
    running = RunningCovariances()
    for part in inputs.split(3):
        running.add(terms_of(model, layer, part))
    found, (whole, _) = running.sums()["0"], sums_of_model(model, layer, inputs)
    assert found.examples == whole.examples == len(inputs)
    for one, expected in zip(found.compute(), whole.compute(), strict=True):
        assert one.dtype == torch.float64
        assert_close(one, expected)


PADDED = {
    "linear at several positions": (*MODELS["linear at several positions"], (4, 1, 1)),
    "convolution in groups": (*MODELS["convolution in groups"], (2, 1, 2, 3)),
    "wide convolution": (lambda: nn.Conv2d(32, 2, 3, padding=1), (32, 4, 5), (1, 1, 4, 5)),
}
"""The layer, an example's shape, and that of a mask: parts of the channels, 1, space."""


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", PADDED)
def test_positions_without_a_gradient_do_not_count(name, kept):
    build, shape, masked = PADDED[name]
    with seeded(12):
        model = nn.Sequential(build(), nn.Tanh()).double()
        inputs = torch.randn(4, *shape, dtype=torch.float64)
        mask = torch.rand(4, *masked) < kept

    def run(rows: slice = slice(None)) -> Tensor:
        return model(inputs[rows]).unflatten(1, (masked[0], -1)) * mask[rows]

    (layer,) = find_layers(model, run).layers
    passed = ForwardPass(model, [layer], run)
    gradients = passed.output_gradients(sum_of_sines(passed.outputs), last=True)
    pixels = passed.pixels().get("0")
    assert (pixels is None) == (name != "wide convolution")
    terms = CovarianceTerms.of(layer, passed.inputs()["0"], gradients["0"], pixels=pixels)
    found = RunningCovariances({"0": [terms]}).sums()["0"].compute()
    expected = kronecker_factors(
        model[0], lambda example: sum_of_sines(run(slice(example, example + 1))).sum(), len(inputs)
    )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_what_is_at_a_position_without_a_gradient_may_be_infinite():
    _, layer, _ = prepared("linear at several positions")
    inputs, gradients = torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 2)
    inputs[0, 0, 1:], gradients[0, 0, 1:] = torch.inf, 0.0
    terms = CovarianceTerms.of(layer, inputs, gradients)
    found = RunningCovariances({"0": [terms]}).sums()["0"].activation
    assert_close(found, torch.full((1, 3, 3), 4.0, dtype=torch.float64))


def test_images_of_several_sizes_add_up():
    with seeded(2):
        model = nn.Sequential(nn.Conv2d(32, 2, 3, padding=1), nn.Tanh()).double()
        images = [torch.randn(2, 32, size, 4, dtype=torch.float64) for size in (3, 5, 3)]
    (layer,) = find_layers(model, lambda: model(images[0])).layers
    running = RunningCovariances()
    for one in images:
        running.add(terms_of(model, layer, one))
    expected = sum(sums_of_model(model, layer, one)[0].activation for one in images)
    assert_close(running.sums()["0"].activation, expected)


def test_sums_can_be_asked_for_and_added_to():
    model, layer, inputs = prepared("linear")
    running = RunningCovariances()
    running.add(terms_of(model, layer, inputs[:2]))
    first = running.sums()["0"].activation.clone()
    running.add(terms_of(model, layer, inputs[2:]))
    assert_close(first, sums_of_model(model, layer, inputs[:2])[0].activation)
    assert_close(running.sums()["0"].activation, sums_of_model(model, layer, inputs)[0].activation)


def test_few_rows_of_a_wide_side_wait_and_no_more_than_enough_do():
    layer = prepared("linear")[1]
    running = RunningCovariances()
    inputs, gradients = torch.ones(3, 1, 1, 4), torch.ones(3, 1, 1, 1)
    with MultiplicationCounter() as counter:
        running.add({"0": [CovarianceTerms.of(layer, inputs, gradients)]})
        assert counter.total == 3  # of G, which is narrow
        running.add({"0": [CovarianceTerms.of(layer, inputs, gradients)]})
        assert counter.total == 2 * 3 + 6 * 4 * 4
        running.sums()
    assert counter.total == 2 * 3 + 6 * 4 * 4


def test_rows_that_wait_are_copies_and_keep_nothing_else():
    _, layer, _ = prepared("linear")
    running = RunningCovariances()
    sequence = torch.ones(1, 1, 50, 4)
    inputs = sequence[:, :, :1]
    running.add({"0": [CovarianceTerms.of(layer, inputs, torch.ones(1, 1, 1, 2))]})
    waiting = running._activation["0"]._waiting
    (held,) = (rows.values for one in waiting.values() for rows in one)
    assert held.untyped_storage().nbytes() == held.nbytes
    # The next batch may be read into the same memory.
    sequence.zero_()
    assert running.sums()["0"].activation[0, 0, 0].item() == 1


def test_products_that_do_not_fit_into_memory_are_taken_in_parts(monkeypatch):
    model, layer, inputs = prepared("linear at several positions")
    expected, _ = sums_of_model(model, layer, inputs)
    true = covariance_terms._gram

    def small(rows, **options):
        if rows.shape[1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true(rows, **options)

    monkeypatch.setattr(covariance_terms, "_gram", small)
    monkeypatch.setattr(covariance, "_FEWEST_ROWS", 2)
    monkeypatch.setattr(covariance, "_ENOUGH", 1000)
    running = RunningCovariances()
    for part in inputs.split(3):
        running.add(terms_of(model, layer, part))
    found = running.sums()["0"]
    assert_close(found.activation, expected.activation)
    assert_close(found.pseudo_gradient, expected.pseudo_gradient)
    monkeypatch.setattr(covariance, "_FEWEST_ROWS", 10)
    with pytest.raises(torch.OutOfMemoryError):
        RunningCovariances(terms_of(model, layer, inputs)).sums()


def test_float32_batches_are_summed_in_float64():
    _, layer, _ = prepared("linear")
    running = RunningCovariances()
    large, small = torch.zeros(4, 1, 1, 4), torch.zeros(4, 1, 1, 4)
    large[..., 0], small[..., 0] = 2.0**12, 0.5
    # 2²⁶ + 1 is not a float32: its running sum would never grow.
    for inputs in (large, small):
        running.add({"0": [CovarianceTerms.of(layer, inputs, torch.ones(4, 1, 1, 2))]})
    assert running.sums()["0"].activation[0, 0, 0].item() == 2**26 + 1


def test_checkpoints_of_a_segment_count_alike_whatever_their_examples():
    model, layer, inputs = prepared("linear")
    few, many = (sums_of_model(model, layer, part)[0] for part in (inputs[:2], inputs[2:]))
    for found, first, second in zip(
        CovarianceSums.mean([few, many]), few.compute(), many.compute(), strict=True
    ):
        assert_close(found, (first + second) / 2, tolerance=1e-14)
