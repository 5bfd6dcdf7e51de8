"""The covariance of patches from their pixels, against products of the patches themselves."""

from dataclasses import replace

import pytest
import torch
from benchmarks.multiplications import MultiplicationCounter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.kinds.convolution import CONVOLUTIONS, _pixels
from tests.core.curvature.test_covariance import sums_of_model
from tests.oracles.dense import kronecker_factors
from tests.tiny import assert_close, seeded

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def convolutions(draw):
    """A convolution of stride 1 and an input that it can read."""
    space = draw(st.integers(1, 3))
    groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 4 if space < 3 else 2)) for _ in range(space))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(space))
    padding = draw(st.one_of(st.just("same"), st.tuples(*(st.integers(0, k) for k in kernel))))
    mode = draw(st.sampled_from(["zeros", "replicate"]))
    extents = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    # As small as an image may be: outer kernel positions then meet padding alone.
    margins = extents if padding == "same" else [2 * size for size in padding]
    shape = [
        max(1, extent - margin) + draw(st.integers(0, 4))
        for extent, margin in zip(extents, margins, strict=True)
    ]
    module = KINDS[space](
        groups * channels,
        groups,
        kernel,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    with seeded(draw(st.integers(0, 99))):
        values = torch.randn(draw(st.integers(1, 3)), groups * channels, *shape)
    return module.double(), values.double()


def patches_of(module, values):
    (kind,) = [one for one in CONVOLUTIONS if one.fits(module)]
    return kind.positions(module, values)


@settings(max_examples=60)
@given(convolutions())
def test_equal_products_of_the_patches(case):
    module, values = case
    found = _pixels(module, values)
    pixels = replace(found, layout=replace(found.layout, ones=True))
    rows = nn.functional.pad(patches_of(module, values), (0, 1), value=1.0)
    rows = rows.transpose(0, 1).flatten(1, 2)
    assert (pixels.rows, pixels.width) == rows.shape[1:]
    assert_close(pixels.layout.expanded(pixels.summed()), rows.mT @ rows)


def test_larger_steps_have_patches_alone():
    assert _pixels(nn.Conv2d(2, 2, 3, stride=(1, 2)), torch.zeros(1, 2, 5, 5)) is None


def test_a_dilated_kernel_on_a_small_image_meets_padding_with_its_outer_positions():
    module = nn.Conv2d(32, 2, 3, padding=12, dilation=12)
    with seeded(8):
        values = torch.rand(2, 32, 8, 8)
    pixels = _pixels(module, values)
    pixels = replace(pixels, layout=replace(pixels.layout, ones=True))
    assert pixels.layout.pays
    rows = nn.functional.pad(patches_of(module, values)[:, 0], (0, 1), value=1.0).flatten(0, 1)
    torch.testing.assert_close(pixels.layout.expanded(pixels.summed())[0], rows.mT @ rows)


@pytest.mark.parametrize("bias", [False, True])
def test_a_wide_layer_has_the_covariance_of_outer_products(bias):
    with seeded(3):
        model = nn.Sequential(nn.Conv2d(32, 2, 3, padding=1, bias=bias), nn.Tanh()).double()
        inputs = torch.randn(3, 32, 4, 5, dtype=torch.float64)
    (layer,) = find_layers(model, lambda: model(inputs)).layers
    passed = ForwardPass(model, [layer], lambda: model(inputs))
    assert set(passed.pixels()) == {"0"}
    found, loss_of = sums_of_model(model, layer, inputs)
    expected, _ = kronecker_factors(model[0], loss_of, len(inputs))
    assert_close(found.compute()[0], expected)


def test_few_channels_and_few_shared_distances_are_left_to_patches():
    def taken(module, size):
        model = nn.Sequential(module, nn.Tanh())
        inputs = torch.zeros(1, module.in_channels, size, size)
        (layer,) = find_layers(model, lambda: model(inputs)).layers
        return bool(ForwardPass(model, [layer], lambda: model(inputs)).pixels())

    assert taken(nn.Conv2d(64, 2, 3), 6)
    assert not taken(nn.Conv2d(8, 2, 7), 9)
    assert not taken(nn.Conv2d(512, 2, 1), 6)
    assert not taken(nn.Conv2d(64, 2, 3, stride=2), 6)
    # Thousands of blocks would take longer than what they save.
    assert not taken(nn.Conv2d(16, 2, 9), 10)


def test_a_kernel_of_three_by_three_takes_a_sixth_of_the_multiplications():
    module = nn.Conv2d(32, 2, 3, padding=1)
    values = torch.zeros(1, 32, 16, 16)
    rows = patches_of(module, values)[0]
    with MultiplicationCounter() as shared:
        _pixels(module, values).summed()
    with MultiplicationCounter() as whole:
        rows.mT @ rows
    assert shared.total * 6 < whole.total


def test_pixels_of_some_examples_are_those_of_the_batch_of_these():
    module = nn.Conv1d(3, 2, 2)
    with seeded(5):
        values = torch.randn(4, 3, 6)
    own = torch.tensor([True, False, True, True])
    some = _pixels(module, values)[own]
    assert len(some) == 3
    torch.testing.assert_close(some.summed(), _pixels(module, values[own]).summed())
