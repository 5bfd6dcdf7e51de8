"""The mean of gradients at several checkpoints, and their norms, against gradients written out."""

from collections.abc import Callable

import pytest
import torch

from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    LayerGradient,
    mean,
    of_unit_norm,
)
from tests.core.layers.checks import normal
from tests.tiny import assert_close, seeded

GROUPS, OUTPUTS, INPUTS = 1, 6, 7


def factored(terms: int) -> FactoredGradient:
    return FactoredGradient(normal(5, GROUPS, terms, INPUTS), normal(5, GROUPS, terms, OUTPUTS))


def indexed(terms: int) -> IndexedGradient:
    return IndexedGradient(torch.randint(INPUTS, (5, terms)), normal(5, terms, OUTPUTS), INPUTS)


def dense(terms: int) -> DenseGradient:
    return DenseGradient(factored(terms).dense())


@pytest.mark.parametrize("make", [factored, indexed, dense])
@pytest.mark.parametrize("terms", [1, 3])
def test_the_mean_of_checkpoints_is_that_of_the_gradients_written_out(
    make: Callable[[int], LayerGradient], terms: int
):
    with seeded(81):
        gradients = [make(terms) for _ in range(3)]
        queries, others = normal(4, GROUPS, OUTPUTS, INPUTS), normal(5, GROUPS, OUTPUTS, INPUTS)
    expected = torch.stack([one.dense() for one in gradients]).mean(0)
    found = mean(gradients)
    assert isinstance(found, type(gradients[0]))
    assert_close(found.dense(), expected)
    assert_close(found.paired_products(others), torch.einsum("ngoi,ngoi->n", others, expected))
    for count in (1, 4):
        products = torch.einsum("qgoi,ngoi->qn", queries[:count], expected)
        assert_close(found.products(queries[:count]), products)
    short = FactoredGradient(queries[:, :, :1], normal(4, GROUPS, 1, OUTPUTS))
    products = torch.einsum("qgoi,ngoi->qn", short.dense(), expected)
    assert_close(found.products(short), products)


def test_inputs_that_all_checkpoints_share_are_kept_once():
    with seeded(82):
        first, tokens = factored(2), indexed(2)
        later = FactoredGradient(first.inputs.clone(), normal(5, GROUPS, 2, OUTPUTS))
        other = IndexedGradient(tokens.indices.clone(), normal(5, 2, OUTPUTS), INPUTS)
    for one, two in ((first, later), (tokens, other)):
        found = mean([one, two])
        assert [len(part.flatten()) for part in found.tensors().values()] == [
            len(part.flatten()) for part in one.tensors().values()
        ]
        assert_close(found.dense(), (one.dense() + two.dense()) / 2)


def test_forms_that_differ_are_written_out():
    """A batch of sequences of length 1 at one checkpoint, of others at the next."""
    with seeded(83):
        one, other = factored(1), dense(3)
    for pair in ((one, other), (other, one)):
        assert_close(mean(pair).dense(), (one.dense() + other.dense()) / 2)


def test_examples_are_divided_by_their_norm_over_all_layers_and_0_stays_0():
    with seeded(84):
        layers = {"a": factored(3), "b": indexed(3), "c": dense(2)}
    for one in (layers["a"].output_gradients, layers["b"].output_gradients, layers["c"].values):
        one[2] = 0
    whole = torch.cat([one.dense().flatten(1) for one in layers.values()], dim=1)
    found = of_unit_norm(layers)
    assert [type(one) for one in found.values()] == [type(one) for one in layers.values()]
    norms = whole.norm(dim=1, keepdim=True)
    assert norms[2] == 0
    assert_close(
        torch.cat([one.dense().flatten(1) for one in found.values()], dim=1),
        torch.where(norms > 0, whole / norms, 0.0),
    )
