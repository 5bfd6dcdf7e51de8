"""Every curvature block against the dense matrix it stands for.

Compared are functions of the matrix, never eigenvectors: those are free in sign, and in any
rotation of an eigenspace.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.core.plan.filters import propagation, segment_response
from tests.oracles.dense import (
    kronecker_factors,
    layer_ekfac_matrix,
    layer_gradients,
    matrix_function,
    matrix_propagation,
    matrix_response,
)
from tests.tiny import (
    Case,
    LeastLikelyLabels,
    assert_close,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    seeded,
    tiny_case,
)

LAYERS = ("first", "second", "head")


def dense_block(case: Case, name: str, checkpoints: tuple[str, ...]) -> Tensor:
    """Return a layer's EK-FAC matrix over these checkpoints and all examples, densely."""
    factors, gradients = [], []
    module = case.model.get_submodule(name)

    def loss_of(example: int) -> Tensor:
        outputs = case.model(case.images[example : example + 1])
        return F.cross_entropy(outputs, outputs.argmin(-1))

    for checkpoint in checkpoints:
        case.model.load_state_dict(case.states[checkpoint])
        factors.append(kronecker_factors(module, loss_of, len(case.labels)))
        gradients.append(layer_gradients(module, loss_of, len(case.labels)))
    return layer_ekfac_matrix(factors, gradients)


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[CurvatureBlock, Tensor]]:
    """Each layer's block over two checkpoints, and the dense matrix it stands for."""
    case = tiny_case("a" * 9)
    source = gradient_source(case, LeastLikelyLabels())
    plan = case_plan(case, "source", segments=2)
    covariances = {point.id: covariances_at(source, point) for point in plan.points}
    blocks = fit_segment(source, plan.segments[0], covariances)
    return {name: (blocks[name], dense_block(case, name, ("c1", "c2"))) for name in LAYERS}


def as_matrix(block: CurvatureBlock, function) -> Tensor:
    """Return the matrix of V ↦ f(H) V by applying it to every unit gradient."""
    size = block.eigenvalues.numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *block.eigenvalues.shape)
    return block.apply(function, units).flatten(1).T


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "function",
    [
        lambda sigma: sigma,
        torch.ones_like,
        lambda sigma: 1 / (sigma + 0.1),
        lambda sigma: (sigma + 0.2).sqrt(),
    ],
    ids=["the matrix", "the identity", "a damped inverse", "a square root"],
)
def test_a_function_of_a_block_equals_that_of_the_dense_matrix(fitted, name, function):
    block, matrix = fitted[name]
    assert_close(as_matrix(block, function), matrix_function(matrix, function))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("step_mass", [0.05, 4.0])
def test_the_filters_equal_the_matrix_exponential(fitted, name, decay, step_mass):
    block, matrix = fitted[name]
    decayed = matrix + decay * torch.eye(len(matrix), dtype=torch.float64)
    assert_close(
        as_matrix(block, lambda sigma: propagation(sigma + decay, step_mass=step_mass)),
        matrix_propagation(decayed, step_mass),
    )
    assert_close(
        as_matrix(block, lambda sigma: segment_response(sigma + decay, step_mass=step_mass)),
        matrix_response(decayed, step_mass),
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_trace_is_the_mean_squared_norm_of_the_gradients(fitted, name):
    """A sum where a mean belongs, or a lost checkpoint, would show here."""
    block, _ = fitted[name]
    case = tiny_case("a" * 9)
    squares = []
    for checkpoint in ("c1", "c2"):
        case.model.load_state_dict(case.states[checkpoint])
        for image in case.images:
            outputs = case.model(image.unsqueeze(0))
            loss = F.cross_entropy(outputs, outputs.argmin(-1))
            parameters = list(case.model.get_submodule(name).parameters())
            squares.append(sum(g.square().sum() for g in torch.autograd.grad(loss, parameters)))
    assert_close(block.eigenvalues.sum(), torch.stack(squares).mean())


def test_one_linear_layer_with_one_output_has_its_exact_gauss_newton_matrix():
    """With D_out = 1 and a residual of ±1, E[g² a aᵀ] is A, which its basis makes diagonal."""
    with seeded(13):
        inputs = torch.randn(20, 4, dtype=torch.float64)
    activation = (inputs.T @ inputs / 20).unsqueeze(0)
    basis = EigenBasis.of(activation, torch.ones(1, 1, 1, dtype=torch.float64), dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0] * 10, dtype=torch.float64)
    gradients = (signs.unsqueeze(1) * inputs).reshape(20, 1, 1, 4)
    block = CurvatureBlock(basis, basis.rotate(gradients).square().mean(0))
    assert_close(as_matrix(block, lambda sigma: sigma), activation[0])


def test_rotating_back_undoes_rotating():
    with seeded(14):
        covariances = [torch.randn(2, n, 9, dtype=torch.float64) for n in (5, 3)]
        gradients = torch.randn(4, 2, 3, 5, dtype=torch.float64)
    activation, pseudo_gradient = (one @ one.mT for one in covariances)
    basis = EigenBasis.of(activation, pseudo_gradient, dtype=torch.float64)
    rotated = basis.rotate(gradients)
    assert_close(basis.rotate_back(rotated), gradients, tolerance=1e-13)
    by_hand = torch.stack(
        [
            torch.stack([basis.outputs[g].T @ one[g] @ basis.inputs[g] for g in range(2)])
            for one in gradients
        ]
    )
    assert_close(rotated, by_hand, tolerance=1e-13)


@pytest.mark.parametrize("large", [1, 1000])
def test_the_basis_diagonalises_both_covariances_and_has_fixed_signs(large, monkeypatch):
    monkeypatch.setattr("sourcetrace.core.curvature.blocks._LARGE", large)
    with seeded(15):
        roots = [torch.randn(2, n, 9) for n in (5, 3)]
    activation, pseudo_gradient = (one.double() @ one.double().mT for one in roots)
    basis = EigenBasis.of(activation, pseudo_gradient, dtype=torch.float32)
    assert isinstance(basis, EigenBasis)
    for matrix, vectors in ((activation, basis.inputs), (pseudo_gradient, basis.outputs)):
        assert vectors.dtype == torch.float32
        diagonal = vectors.double().mT @ matrix @ vectors.double()
        off = diagonal - torch.diag_embed(diagonal.diagonal(dim1=1, dim2=2))
        assert off.abs().max() < 1e-5 * matrix.abs().max()
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize("large", [1, 1000])
def test_decomposed_in_float64_where_float32_would_lose_the_small_eigenvalues(large, monkeypatch):
    """Eigenvalues 1 and 1e-9 apart by 45°: float32 cannot see the small one's direction."""
    monkeypatch.setattr("sourcetrace.core.curvature.blocks._LARGE", large)
    turn = nn.functional.normalize(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).double(), dim=1)
    middle = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    matrix = (turn @ middle @ turn.T).unsqueeze(0)
    basis = EigenBasis.of(matrix, matrix, dtype=torch.float64)
    diagonal = basis.inputs[0].T @ matrix[0] @ basis.inputs[0]
    assert diagonal[0, 0].item() == pytest.approx(1e-9, rel=1e-5)


def test_a_diagonal_side_has_the_identity_for_its_basis():
    with seeded(3):
        gradients = torch.randn(5, 1, 2, 4, dtype=torch.float64)
        whole = torch.randn(1, 2, 2, dtype=torch.float64)
    pseudo_gradient = whole @ whole.mT
    diagonal = torch.arange(1.0, 5.0, dtype=torch.float64).unsqueeze(0)
    basis = EigenBasis.of(diagonal, pseudo_gradient, dtype=torch.float64)
    written = EigenBasis.of(torch.diag_embed(diagonal), pseudo_gradient, dtype=torch.float64)
    assert basis.inputs is None
    assert_close(basis.rotate(gradients), written.rotate(gradients))
    assert_close(basis.rotate_back(basis.rotate(gradients)), gradients)
    block = CurvatureBlock(basis, torch.rand(1, 2, 4, dtype=torch.float64))
    assert block.to(torch.device("cpu")).basis.inputs is None
