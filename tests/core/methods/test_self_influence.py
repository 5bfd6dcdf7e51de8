"""Low-rank sums in self-influence against filters written out, whatever gradients lie in."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.methods.self_influence import SelfInfluence
from sourcetrace.core.plan.filters import FilterSettings
from tests.tiny import seeded

SEGMENTS = 3
EXAMPLES = 20


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def spectrum(width: int, decades: float, nothing: int) -> Tensor:
    """Return what eigenvalues are products of: falling, and 0 in the last directions."""
    falling = torch.logspace(0, -decades, width, dtype=torch.float64)
    return falling * (torch.arange(width) < width - nothing)


@pytest.mark.parametrize("shape", [(10, 64), (32, 48), (64, 64)], ids=str)
@pytest.mark.parametrize(
    ("decades", "step_mass"), [(2, 1.0), (4, 3.0), (6, 100.0), (8, 1000.0), (6, 1e4)]
)
@pytest.mark.parametrize("nothing", [0, 8], ids=["positive", "with zeros"])
@pytest.mark.parametrize("where", ["as the curvature", "everywhere", "where it is flat"])
def test_sums_of_a_few_terms_are_near_the_filters_written_out(
    shape, decades, step_mass, nothing, where
):
    """Labels as given may have gradients where those drawn from the model have next to none."""
    sides = [spectrum(width, decades, nothing) for width in shape]
    widths = {
        "as the curvature": [one.sqrt() for one in sides],
        "everywhere": [torch.ones_like(one) for one in sides],
        "where it is flat": [(torch.arange(n) >= n - n // 4).double() for n in shape],
    }[where]
    with seeded(5):
        common = [torch.linalg.qr(normal(1, n, n))[0] for n in shape]
        blocks = []
        for _ in range(SEGMENTS):
            outputs, inputs = (
                torch.linalg.qr(one + 0.01 * normal(*one.shape))[0] for one in common
            )
            noise = (0.3 * normal(1, *shape)).exp()
            values = sides[0].unsqueeze(1) * sides[1] * noise
            blocks.append(CurvatureBlock(EigenBasis(inputs, outputs), values))
        g, a = (
            (normal(EXAMPLES, 1, 1, len(width)) * width) @ one.mT
            for width, one in zip(widths, common, strict=True)
        )
    own, met = FactoredGradient(a, g), FactoredGradient(a, g + 0.1 * g.roll(1, 0))
    filters = [FilterSettings(step_mass, weight_decay=1e-3).training()] * SEGMENTS
    rows = torch.arange(EXAMPLES)
    member = SimpleNamespace(
        segments=[SimpleNamespace(count=len(rows))] * SEGMENTS,
        layer_steps=lambda *_: (filters, blocks, None),
    )
    block = SimpleNamespace(
        count=EXAMPLES,
        places=[rows] * SEGMENTS,
        met=[[{"layer": met}]] * SEGMENTS,
        final={"layer": own},
    )
    scorer = SelfInfluence.of(member, [None] * SEGMENTS, ["layer"], like=normal(0))
    found = scorer.scores(block)

    vectors = own.dense()
    expected = []
    for one, (response, propagated) in zip(
        blocks[::-1], [(one.response, one.propagation) for one in filters], strict=True
    ):
        answer = one.apply(response, vectors)
        expected.append((answer * met.dense()).sum((1, 2, 3)) / EXAMPLES)
        vectors = one.apply(propagated, vectors)
    total = torch.stack(expected).sum(0)
    assert (found.sum(0) - total).norm() < 0.01 * total.norm()
    assert bool(((found.sum(0) - total).abs() < 0.02 * total.abs()).all())
