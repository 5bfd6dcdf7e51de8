"""A weight that output layer and embedding share: all products as of what is written out."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients import factored
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    concatenate,
    from_tensors,
    mean,
    of_unit_norm,
    per_example_gradient,
)
from sourcetrace.core.gradients.tied import TiedGradient, TiedPositions
from sourcetrace.core.layers.layer import Layer
from tests.tiny import assert_close, seeded

EXAMPLES, POSITIONS, TOKENS, WIDTH = 3, 4, 40, 8


def sides(seed=0, positions=POSITIONS):
    """Return inputs and output gradients; a token is repeated, one position carries nothing."""
    with seeded(seed):
        indices = torch.randint(TOKENS, (EXAMPLES, positions + 1))
        indices[:, 1], indices[1, 0] = indices[:, 2], -1
        return (
            TiedPositions(torch.randn(EXAMPLES, 1, positions, WIDTH, dtype=torch.float64), indices),
            TiedPositions(
                torch.randn(EXAMPLES, 1, positions, TOKENS, dtype=torch.float64),
                torch.randn(EXAMPLES, 1, positions + 1, WIDTH, dtype=torch.float64),
            ),
        )


def tied(seed=0, positions=POSITIONS):
    found = per_example_gradient(*sides(seed, positions), width=WIDTH)
    assert isinstance(found, TiedGradient)
    return found


def written_out(seed=0, positions=POSITIONS):
    inputs, outputs = sides(seed, positions)
    known = (inputs.embedding >= 0).unsqueeze(2)
    one_hot = known * F.one_hot(inputs.embedding.clamp(min=0), TOKENS).double()
    linear = outputs.linear[:, 0].mT @ inputs.linear[:, 0]
    return (linear + one_hot.mT @ outputs.embedding[:, 0]).unsqueeze(1)


def bases():
    with seeded(5):
        return (
            torch.linalg.qr(torch.randn(1, WIDTH, WIDTH, dtype=torch.float64))[0],
            torch.linalg.qr(torch.randn(1, TOKENS, TOKENS, dtype=torch.float64))[0],
        )


def test_written_out_it_is_the_sum_of_both_parts(monkeypatch):
    monkeypatch.setattr(factored, "_SLAB_BYTES", 200)
    assert_close(tied().dense(), written_out())
    found = torch.zeros_like(written_out())
    for rows, taken, part in tied().dense_slabs():
        assert part.shape[2] < TOKENS
        found[rows, :, taken] = part
    assert_close(found, written_out())


def test_products_norms_and_sums_are_those_of_what_is_written_out():
    gradient, dense = tied(), DenseGradient(written_out())
    with seeded(6):
        queries = torch.randn(2, 1, TOKENS, WIDTH, dtype=torch.float64)
        others = torch.randn(EXAMPLES, 1, TOKENS, WIDTH, dtype=torch.float64)
        short = FactoredGradient(
            torch.randn(2, 1, 3, WIDTH, dtype=torch.float64),
            torch.randn(2, 1, 3, TOKENS, dtype=torch.float64),
        )
    assert_close(gradient.products(queries), dense.products(queries))
    assert_close(gradient.products(queries[:1]), dense.products(queries[:1]))
    assert_close(gradient.products(short), dense.products(short))
    assert_close(gradient.paired_products(others), dense.paired_products(others))
    assert_close(gradient.squared_norms(), dense.squared_norms())
    assert_close(gradient.summed(), dense.summed())


@pytest.mark.parametrize("with_outputs", [False, True])
@pytest.mark.parametrize("with_inputs", [False, True])
def test_rotations_and_their_squares_are_those_of_what_is_written_out(with_inputs, with_outputs):
    inputs, outputs = bases()
    chosen = inputs if with_inputs else None, outputs if with_outputs else None
    gradient, dense = tied(), DenseGradient(written_out())
    assert_close(gradient.rotated(*chosen).dense(), dense.rotated(*chosen).values)
    assert_close(gradient.rotated_squares(*chosen), dense.rotated_squares(*chosen))


def test_kept_joined_and_averaged_it_stays_a_sum():
    gradient = tied()
    kept = from_tensors(gradient.tensors())
    assert isinstance(kept, TiedGradient)
    assert_close(kept.dense(), written_out())
    joined = concatenate([{"": tied()}, {"": tied(1, 2)}])[""]
    assert isinstance(joined, TiedGradient)
    assert_close(joined.dense(), torch.cat([written_out(), written_out(1, 2)]))
    average = mean([tied(), tied(1)])
    assert isinstance(average, TiedGradient)
    assert_close(average.dense(), (written_out() + written_out(1)) / 2)
    own = torch.tensor([True, False, True])
    assert_close(gradient.rows(own).dense(), written_out()[own])


@pytest.mark.parametrize("widest", [TOKENS, TOKENS - 1])
def test_its_covariances_are_those_of_the_whole_gradient(widest, monkeypatch):
    monkeypatch.setattr("sourcetrace.core.curvature.covariance_terms.MAXIMUM_FACTOR", widest)
    layer = Layer("words", (), 1, TOKENS, WIDTH, "words.weight", None)
    running = RunningCovariances()
    for seed in (0, 1):
        running.add({"words": [CovarianceTerms.of(layer, *sides(seed))]})
    sums = running.sums()["words"]
    every = torch.cat([written_out(), written_out(1)])[:, 0]
    assert_close(sums.activation, (every.mT @ every).sum(0, keepdim=True))
    whole = (every @ every.mT).sum(0, keepdim=True)
    if widest < TOKENS:
        whole = whole.diagonal(dim1=1, dim2=2)
    assert_close(sums.pseudo_gradient, whole)
    assert sums.examples == 2 * EXAMPLES


def test_long_sequences_are_written_out():
    assert isinstance(per_example_gradient(*sides(0, 30), width=WIDTH), DenseGradient)


def test_of_unit_norm_it_is_what_is_written_out_divided_by_its_norm():
    whole = written_out()
    found = of_unit_norm({"tied": tied()})["tied"]
    assert isinstance(found, TiedGradient)
    assert_close(found.dense(), whole / whole.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))


def test_a_batch_without_examples_has_gradients_without_rows():
    """As an example's of another stage are, of which no curvature is taken."""
    inputs, outputs = sides()
    none = torch.zeros(EXAMPLES, dtype=torch.bool)
    assert len(inputs[none].gradient(outputs[none])) == 0
    assert len(per_example_gradient(inputs[none], outputs[none], width=WIDTH)) == 0
