"""Products are the same whichever library multiplies, and however their sides lie in memory."""

import pytest
import torch
from torch import Tensor

from sourcetrace.core.machine import products
from sourcetrace.core.machine.products import both_sides, multiplied, times_by_group


@pytest.fixture(autouse=True, params=[True, False])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take oneDNN for small products too, or never."""
    usable = request.param and torch.backends.mkldnn.is_available()
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: usable)
    monkeypatch.setattr(products, "_SMALL", 1)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("columns", [3, 80])
def test_layouts_do_not_matter(columns: int) -> None:
    one, other = _random(40, 30), _random(30, columns)
    expected = (one.double() @ other.double()).float()
    wide, tall = _random(40, 60), _random(60, columns)
    wide[:, ::2], tall[::2] = one, other
    for left in (one, one.T.contiguous().T, wide[:, ::2]):
        for right in (other, other.T.contiguous().T, tall[::2]):
            assert torch.allclose(multiplied(left, right), expected, rtol=1e-4, atol=1e-4)


def test_float64_keeps_its_digits() -> None:
    one, other = _random(8, 9).double(), _random(9, 7).double()
    assert torch.equal(multiplied(one, other), one @ other)


def test_nothing_is_multiplied() -> None:
    assert multiplied(_random(0, 4), _random(4, 3)).shape == (0, 3)


@pytest.mark.parametrize("groups", [1, 2])
def test_both_sides_of_every_example(groups: int) -> None:
    values, outputs = _random(5, groups, 6, 4), _random(groups, 6, 6)
    inputs = _random(groups, 4, 4)
    rotated = torch.einsum("ngoi,gok,gij->ngkj", values, outputs, inputs)
    assert torch.allclose(both_sides(values, outputs, inputs), rotated, rtol=1e-4, atol=1e-5)
    assert torch.allclose(both_sides(values, None, inputs), values @ inputs, rtol=1e-4, atol=1e-5)
    one_side = both_sides(values, outputs, None)
    assert one_side.is_contiguous()
    assert torch.allclose(one_side, outputs.mT @ values, rtol=1e-4, atol=1e-5)
    assert torch.equal(both_sides(values, None, None), values)
    assert times_by_group(values[:, :, :0], inputs).shape == (5, groups, 0, 4)
    found = times_by_group(values, inputs)
    assert torch.allclose(found, values @ inputs, rtol=1e-4, atol=1e-5)
