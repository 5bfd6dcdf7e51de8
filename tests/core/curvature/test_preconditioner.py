"""Adam's preconditioner against dense matrices, and its rank-one approximation."""

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.curvature import preconditioner
from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.curvature.preconditioner import (
    RankOneScaling,
    mean_preconditioner,
)
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.layers.layer import Layer
from sourcetrace.core.responses.propagation import propagate
from tests.oracles.dense import (
    kronecker_factors,
    layer_ekfac_matrix,
    layer_gradients,
    matrix_propagation,
    matrix_response,
)
from tests.tiny import (
    LeastLikelyLabels,
    assert_close,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    seeded,
    segment_filter,
    tiny_case,
)

SHAPE = (2, 3, 5)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    return 0.1 + torch.rand(*shape, dtype=torch.float64)


def covariance(groups: int, size: int) -> Tensor:
    root = normal(groups, size, 2 * size)
    return root @ root.mT


def block(*, preconditioner: Tensor | None) -> CurvatureBlock:
    groups, outputs, inputs = SHAPE
    basis = EigenBasis(
        torch.linalg.eigh(covariance(groups, inputs))[1],
        torch.linalg.eigh(covariance(groups, outputs))[1],
    )
    return CurvatureBlock(basis, positive(*SHAPE), preconditioner)


def as_matrix(one: CurvatureBlock) -> Tensor:
    size = one.eigenvalues.numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)
    return one.apply(lambda sigma: sigma, units).flatten(1).T


def dense_layer() -> Layer:
    model = nn.Linear(4, 3).double()
    (layer,) = find_layers(model, lambda: model(torch.zeros(1, 4, dtype=torch.float64))).layers
    return layer


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_walk_equals_the_dense_exponentials_of_the_preconditioned_curvature(decay):
    """S̄ = P^½ exp(−τ(Ĥ + wI)) P^−½ and r̄ = P^½ F_r(Ĥ + wI) P^½, AdamW's decay included."""
    with seeded(41):
        roots = [positive(*SHAPE), positive(*SHAPE)]
        blocks = [block(preconditioner=root) for root in roots]
        queries = normal(3, *SHAPE)
    masses, counts = (1.3, 0.7), (4, 6)
    filters = [
        segment_filter("source", step_mass=mass, weight_decay=decay, optimizer="AdamW")
        for mass in masses
    ]
    found = propagate(queries, filters, blocks, counts)
    carried = queries.flatten(1)
    for index in (1, 0):
        root = torch.diag(roots[index].flatten())
        curvature = as_matrix(blocks[index]) + decay * torch.eye(30, dtype=torch.float64)
        response = root @ matrix_response(curvature, masses[index]) @ root
        assert_close(found[index].flatten(1), carried @ response / counts[index])
        carried = (
            carried @ root @ matrix_propagation(curvature, masses[index]) @ torch.inverse(root)
        )


def test_coupled_decay_adds_the_diagonal_of_the_preconditioner_in_the_eigenbasis():
    with seeded(42):
        root = positive(*SHAPE)
        one = block(preconditioner=root)
    size = root.numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)
    basis = one.basis.rotate_back(units).flatten(1)
    expected = (basis @ torch.diag(root.square().flatten()) @ basis.T).diagonal()
    assert_close((one.decayed(0.2) - one.eigenvalues).flatten(), 0.2 * expected)
    plain = CurvatureBlock(one.basis, one.eigenvalues)
    assert_close(plain.decayed(0.2), plain.eigenvalues + 0.2)
    assert plain.decayed(0.0) is plain.eigenvalues


def test_only_adam_multiplies_weight_decay_by_the_preconditioner():
    sigma = torch.tensor([0.5], dtype=torch.float64)
    adam = segment_filter("source", step_mass=2.0, weight_decay=0.1, optimizer="Adam")
    assert adam.coupled_decay == 0.1
    assert_close(adam.propagation(sigma), torch.exp(-2.0 * sigma))
    for name in ("SGD", "AdamW"):
        other = segment_filter("source", step_mass=2.0, weight_decay=0.1, optimizer=name)
        assert other.coupled_decay == 0.0
        assert_close(other.propagation(sigma), torch.exp(-2.0 * (sigma + 0.1)))


def test_a_preconditioner_of_rank_one_is_found_exactly():
    with seeded(43):
        outputs, inputs = positive(2, 3), positive(2, 5)
        factors = {"activation": covariance(2, 5), "pseudo_gradient": covariance(2, 3)}
    root = outputs.unsqueeze(-1) * inputs.unsqueeze(-2)
    found = RankOneScaling.of(root, **factors)
    assert_close(found.outputs.unsqueeze(-1) * found.inputs.unsqueeze(-2), root)


def test_the_approximation_is_the_best_of_rank_one_weighted_by_the_gradients():
    """Against the singular value decomposition of the weighted matrix, and a dead input."""
    with seeded(44):
        root = positive(*SHAPE)
        activation, pseudo_gradient = covariance(2, 5), covariance(2, 3)
    activation[:, 2, :] = 0
    activation[:, :, 2] = 0
    found = RankOneScaling.of(root, activation=activation, pseudo_gradient=pseudo_gradient)
    assert (found.inputs[:, 2] == 0).all()
    weights = (
        pseudo_gradient.diagonal(dim1=1, dim2=2).unsqueeze(2)
        * activation.diagonal(dim1=1, dim2=2).unsqueeze(1)
    ).sqrt()
    left, values, right = torch.linalg.svd(weights * root)
    expected = values[:, :1, None] * left[:, :, :1] * right[:, :1, :]
    assert_close(
        weights * found.outputs.unsqueeze(-1) * found.inputs.unsqueeze(-2),
        expected,
        tolerance=1e-9,
    )


def test_diagonal_covariances_give_the_same_scaling():
    with seeded(44):
        root = positive(*SHAPE)
        activation, pseudo_gradient = covariance(2, 5), covariance(2, 3)
    whole = RankOneScaling.of(root, activation=activation, pseudo_gradient=pseudo_gradient)
    diagonal = activation.diagonal(dim1=1, dim2=2)
    found = RankOneScaling.of(root, activation=diagonal, pseudo_gradient=pseudo_gradient)
    assert_close(found.inputs, whole.inputs)
    assert_close(
        found.scale_inputs(diagonal),
        whole.scale_inputs(activation).diagonal(dim1=1, dim2=2),
    )


def test_scaled_gradients_have_the_scaled_covariances():
    """A' = diag(w) A diag(w), and for a root of rank one both forms of a gradient agree."""
    with seeded(45):
        gradient = FactoredGradient(normal(7, 2, 1, 5), normal(7, 2, 1, 3))
        outputs, inputs = positive(2, 3), positive(2, 5)
    root = outputs.unsqueeze(-1) * inputs.unsqueeze(-2)
    activation = torch.einsum("ngsi,ngsj->gij", gradient.inputs, gradient.inputs)
    pseudo_gradient = torch.einsum(
        "ngsi,ngsj->gij", gradient.output_gradients, gradient.output_gradients
    )
    scaling = RankOneScaling.of(root, activation=activation, pseudo_gradient=pseudo_gradient)
    scaled = scaling.precondition(gradient, root)
    assert_close(
        torch.einsum("ngsi,ngsj->gij", scaled.inputs, scaled.inputs),
        scaling.scale_inputs(activation),
    )
    assert_close(
        torch.einsum("ngsi,ngsj->gij", scaled.output_gradients, scaled.output_gradients),
        scaling.scale_outputs(pseudo_gradient),
    )
    dense = scaling.precondition(DenseGradient(gradient.dense()), root)
    assert_close(scaled.dense(), dense.dense())


def test_what_is_no_outer_product_keeps_the_exact_preconditioner():
    with seeded(46):
        gradient = DenseGradient(normal(4, *SHAPE))
        root = positive(*SHAPE)
        factors = {"activation": covariance(2, 5), "pseudo_gradient": covariance(2, 3)}
    scaled = RankOneScaling.of(root, **factors).precondition(gradient, root)
    assert_close(scaled.dense(), gradient.dense() * root)


def test_the_mean_is_over_the_inverses_with_the_bias_as_the_last_column():
    layer = dense_layer()
    with seeded(47):
        denominators = [{"weight": positive(3, 4), "bias": positive(3)} for _ in range(2)]
    root = mean_preconditioner(layer, denominators, dtype=torch.float64)
    assert_close(root[0, :, :4].square(), sum(1 / one["weight"] for one in denominators) / 2)
    assert_close(root[0, :, 4].square(), sum(1 / one["bias"] for one in denominators) / 2)


def test_where_no_gradient_came_the_preconditioner_is_finite_and_small():
    layer = dense_layer()
    with seeded(48):
        one = {"weight": positive(3, 4), "bias": positive(3)}
    one["weight"][1, 2] = torch.inf
    root = mean_preconditioner(layer, [one], dtype=torch.float64)
    assert root[0, 1, 2] == root.min()
    assert root.isfinite().all()
    assert root.min() > 0


def test_a_layer_that_was_never_trained_has_no_preconditioner():
    assert mean_preconditioner(dense_layer(), [{}, {}], dtype=torch.float64) is None


@pytest.mark.parametrize("name", ["first", "second", "head"])
def test_a_fitted_block_is_the_ekfac_matrix_of_the_scaled_gradients(name):
    """Convolutions have dense gradients, scaled exactly; the head's are outer products."""
    case = tiny_case("a" * 9)
    source = gradient_source(case, LeastLikelyLabels())
    (planned, _) = case_plan(case, "source", segments=2).segments
    covariances = {point.id: covariances_at(source, point) for point in planned.points}
    with seeded(49):
        roots = {layer.name: positive(*layer.shape) for layer in source.coverage.layers}
    fitted = fit_segment(source, planned, covariances, preconditioners=roots)[name]
    assert torch.equal(fitted.preconditioner, roots[name])

    module = case.model.get_submodule(name)

    def loss_of(example: int) -> Tensor:
        outputs = case.model(case.images[example : example + 1])
        return nn.functional.cross_entropy(outputs, outputs.argmin(-1))

    factors, gradients = [], []
    for checkpoint in ("c1", "c2"):
        case.model.load_state_dict(case.states[checkpoint])
        factors.append(kronecker_factors(module, loss_of, 9))
        gradients.append(layer_gradients(module, loss_of, 9))
    activation, pseudo_gradient = ((a + b) / 2 for a, b in zip(*factors, strict=True))
    scaling = RankOneScaling.of(roots[name], activation=activation, pseudo_gradient=pseudo_gradient)
    inputs, outputs = torch.diag_embed(scaling.inputs), torch.diag_embed(scaling.outputs)
    exact = name != "head"
    scale = roots[name] if exact else scaling.outputs[..., None] * scaling.inputs[..., None, :]
    expected = layer_ekfac_matrix(
        [(inputs @ activation @ inputs, outputs @ pseudo_gradient @ outputs)],
        [scale * one for one in gradients],
    )
    units = torch.eye(len(expected), dtype=torch.float64)
    units = units.reshape(-1, *fitted.eigenvalues.shape)
    assert_close(fitted.apply(lambda sigma: sigma, units).flatten(1).T, expected)


@pytest.mark.parametrize("rotates_outputs", [False, True])
def test_squares_of_several_positions_are_those_of_what_is_written_out(
    rotates_outputs, monkeypatch
):
    monkeypatch.setattr(preconditioner, "_WRITTEN_OUT", 1)
    with seeded(12):
        gradient = FactoredGradient(normal(3, 1, 2, 5), normal(3, 1, 2, 7))
        root = torch.rand(1, 7, 5, dtype=torch.float64)
        basis = EigenBasis(
            torch.linalg.qr(normal(1, 5, 5))[0],
            torch.linalg.qr(normal(1, 7, 7))[0] if rotates_outputs else None,
        )
    scaling = RankOneScaling(root.new_ones(1, 7), root.new_ones(1, 5))
    found = scaling.rotated_squares(gradient, root, basis)
    assert_close(found, basis.rotate(gradient.dense() * root).square().sum(0))
