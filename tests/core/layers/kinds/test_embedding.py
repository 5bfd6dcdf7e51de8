"""Embeddings against autograd and against a linear layer on one-hot inputs."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import nn

from sourcetrace.core.curvature import covariance_terms
from sourcetrace.core.curvature.covariance_terms import CovarianceTerms
from sourcetrace.core.gradients.indexed import IndexedGradient
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    concatenate,
    from_tensors,
    squared_norms,
)
from sourcetrace.core.layers.discovery import find_layers
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    gradients_of,
    normal,
)
from tests.tiny import assert_close, seeded

TOKENS = 7


def prepared(*shape, padding_idx=None):
    with seeded(51):
        embedding = nn.Embedding(TOKENS, 3, padding_idx=padding_idx).double()
        # Few tokens, so that an example repeats some.
        return nn.Sequential(embedding, nn.Tanh()), torch.randint(4, shape)


@pytest.mark.parametrize("padding_idx", [None, 0, 2])
@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 2, 3)])
def test_gradients_equal_the_per_example_loop(shape, padding_idx):
    model, tokens = prepared(*shape, padding_idx=padding_idx)
    coverage = check_gradients_of(model, tokens)
    check_all_counted(coverage, model)


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_every_product_equals_the_dense_gradient_s(padding_idx):
    model, tokens = prepared(5, 6, padding_idx=padding_idx)
    found = gradients_of(model, tokens)[1]["0"]
    assert isinstance(found, IndexedGradient)
    dense = DenseGradient(found.dense())
    with seeded(52):
        queries, others, basis = normal(4, 1, 3, 7), normal(5, 1, 3, 7), normal(1, 3, 3)
    assert len(found) == 5
    assert_close(found.squared_norms(), dense.squared_norms())
    assert_close(found.products(queries), dense.products(queries))
    assert_close(found.paired_products(others), dense.paired_products(others))
    for output_basis in (None, basis):
        squares = found.rotated_squares(None, output_basis)
        assert_close(squares, dense.rotated_squares(None, output_basis))
    index = torch.tensor([3, 1])
    assert_close(found.rows(index).dense(), dense.values[index])
    assert_close(from_tensors(found.tensors()).dense(), dense.values)


def test_products_do_not_depend_on_how_many_are_gathered_at_once(monkeypatch):
    model, tokens = prepared(5, 6)
    found = gradients_of(model, tokens)[1]["0"]
    queries = normal(4, 1, 3, 7)
    whole = found.products(queries)
    monkeypatch.setattr("sourcetrace.core.gradients.indexed._GATHERED", 150)
    assert_close(found.products(queries), whole)


def test_no_examples_are_no_gradients():
    model, tokens = prepared(5, 6)
    none = gradients_of(model, tokens)[1]["0"].rows(torch.zeros(5, dtype=torch.bool))
    assert none.squared_norms().shape == (0,)
    assert none.dense().shape == (0, 1, 3, 7)
    assert none.products(normal(4, 1, 3, 7)).shape == (4, 0)
    assert none.paired_products(normal(0, 1, 3, 7)).shape == (0,)
    assert torch.equal(none.rotated_squares(None, None), torch.zeros(1, 3, 7).double())


def test_another_input_basis_than_the_identity_is_refused():
    model, tokens = prepared(2, 3)
    with pytest.raises(ValueError, match="pass None"):
        gradients_of(model, tokens)[1]["0"].rotated_squares(torch.eye(7)[None], None)


def test_batches_of_unequal_length_join():
    model, tokens = prepared(5, 6)
    parts = [gradients_of(model, part)[1] for part in (tokens[:2], tokens[2:, :4], tokens[2:, :1])]
    joined = concatenate(parts)
    assert_close(joined["0"].dense(), torch.cat([part["0"].dense() for part in parts]))
    assert_close(squared_norms(joined), torch.cat([squared_norms(part) for part in parts]))


def test_covariances_are_those_of_a_linear_layer_on_one_hot_inputs():
    model, tokens = prepared(6, 4)
    linear = nn.Linear(TOKENS, 3, bias=False).double()
    linear.weight.data = model[0].weight.detach().T.clone()
    same = nn.Sequential(linear, nn.Tanh())
    one_hot = F.one_hot(tokens, TOKENS).double()
    activation, pseudo_gradient = check_covariances(model, tokens, "0")
    expected = check_covariances(same, one_hot, "0")
    assert_close(torch.diag_embed(activation), expected[0])
    assert_close(pseudo_gradient, expected[1])


def test_a_padding_token_is_counted_nowhere():
    model, tokens = prepared(6, 4, padding_idx=2)
    assert (tokens == 2).any()
    activation, _ = check_covariances(model, tokens, "0")
    assert activation[0, 2] == 0
    counts = torch.bincount(tokens[tokens != 2], minlength=TOKENS).double()
    assert_close(activation[0], counts / 6)
    (layer,) = coverage_of(model, tokens).layers
    gradients = normal(6, 1, 4, 3)
    indices = layer.inputs_of(model[0], tokens, layer.sites[0])
    terms = CovarianceTerms.of(layer, indices, gradients)
    kept = gradients[:, 0][tokens != 2]
    assert_close(terms.pseudo_gradient.summed()[0], kept.T @ kept)


def test_a_token_without_a_gradient_is_not_counted():
    model, tokens = prepared(6, 4)
    (layer,) = coverage_of(model, tokens).layers
    gradients = normal(6, 1, 4, 3)
    gradients[:, :, 2:] = 0
    (terms,) = CovarianceTerms.of(layer, tokens, gradients).activation
    assert torch.equal(terms.summed()[0], torch.bincount(tokens[:, :2].flatten(), minlength=TOKENS))


def test_a_side_that_is_too_wide_keeps_its_diagonal_alone(monkeypatch):
    with seeded(53):
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh()).double()
        inputs = normal(5, 3)
    whole = check_covariances(model, inputs, "0")
    monkeypatch.setattr(covariance_terms, "MAXIMUM_FACTOR", 5)
    activation, pseudo_gradient = check_covariances(model, inputs, "0")
    assert_close(activation, whole[0])
    assert_close(pseudo_gradient, whole[1].diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_norm": 1.0}, "max_norm"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq"),
        ({"sparse": True}, "sparse"),
    ],
)
def test_options_that_change_the_gradient_are_named(options, reason):
    model = nn.Sequential(nn.Embedding(5, 3, **options), nn.Linear(3, 2))
    tokens = torch.tensor([[0, 1], [2, 3]])
    # As bare parameters they would have the gradients of other losses.
    coverage = find_layers(model, lambda: model(tokens), examples=2, bare=1000)
    assert [layer.name for layer in coverage.layers] == ["1"]
    assert reason in coverage.unattributed[0].reason
    check_all_counted(coverage, model)


class Positions(nn.Module):
    """Adds an embedding of positions that is the same for every example."""

    def __init__(self, *, batched: bool) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(TOKENS, 3), nn.Embedding(9, 3)
        self.batched = batched

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1])
        where = self.position(positions.unsqueeze(0) if self.batched else positions)
        return (self.token(tokens) + where).tanh()


def test_positions_that_serve_all_examples_are_told_apart():
    with seeded(54):
        model = Positions(batched=True).double()
        tokens = torch.randint(TOKENS, (4, 5))
    coverage = check_gradients_of(model, tokens)
    assert coverage.share == 1


def test_positions_without_an_example_dimension_are_named():
    model = Positions(batched=False)
    coverage = coverage_of(model, torch.randint(TOKENS, (4, 5)))
    assert [layer.name for layer in coverage.layers] == ["token"]
    assert "none of its dimensions counts examples" in coverage.unattributed[0].reason
    check_all_counted(coverage, model)
