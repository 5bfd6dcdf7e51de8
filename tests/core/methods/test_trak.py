"""TRAK against its formula written out, and its projection against its definition."""

import torch

from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import DenseGradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.trak import DAMPING, _Projection
from tests.core.methods.test_attribution import ONE_STAGE, DenseRun, check_scores
from tests.tiny import TinyConvNet, assert_close, attribute, seeded, tiny_case

DIMENSION = 20


def projection(model, dimension: int) -> _Projection:
    layers = find_layers(model, lambda: model(torch.zeros(1, 1, 5, 5).double())).layers
    return _Projection.draw(layers, dimension, seed=5, like=torch.zeros(1).double())


def matrix(drawn: _Projection) -> torch.Tensor:
    """Return P, [k, P], in the layers' layout."""
    parts = [
        (drawn.outputs[name].unsqueeze(3) * inputs.unsqueeze(2)).transpose(0, 1).flatten(1)
        for name, inputs in drawn.inputs.items()
    ]
    return torch.cat(parts, dim=1) / drawn.dimension**0.5


def test_scores_are_the_published_ones_with_the_sign_of_a_removal():
    """φ_qᵀ (ΦᵀΦ + λ)⁻¹ φ_m times −(1 − p_m), features of the margins."""
    case = tiny_case(ONE_STAGE)
    dense = DenseRun(case)
    drawn = matrix(projection(case.model, DIMENSION))
    queries = dense.query_gradients() @ drawn.T

    def margin(logits, label):
        probability = logits.softmax(0)[label]
        return probability.log() - (1 - probability).log()

    features = dense.gradients(margin, case.images, case.labels) @ drawn.T
    moments = features.T @ features
    damped = moments + DAMPING * moments.trace() / DIMENSION * torch.eye(DIMENSION).double()
    with torch.no_grad():
        probability = case.model(case.images).softmax(1)[torch.arange(8), case.labels]
    expected = -queries @ torch.linalg.inv(damped) @ features.T * (1 - probability)
    check_scores(attribute(case, "trak").scores, expected.unsqueeze(0))


def test_factors_dense_gradients_and_the_matrix_give_the_same_projection():
    model = TinyConvNet().double()
    drawn = projection(model, DIMENSION)
    with seeded(3):
        left, right = torch.randn(6, 1, 2, 3).double(), torch.randn(6, 1, 2, 17).double()
    factored = FactoredGradient(right, left)
    only_head = _Projection(
        {"head": drawn.outputs["head"]}, {"head": drawn.inputs["head"]}, DIMENSION
    )
    found = only_head.project({"head": factored})
    assert_close(found, only_head.project({"head": DenseGradient(factored.dense())}))
    assert_close(found, factored.dense().flatten(1) @ matrix(only_head).T)


def test_projecting_back_is_the_transpose():
    case = tiny_case(ONE_STAGE)
    drawn = projection(case.model, DIMENSION)
    with seeded(3):
        values = torch.randn(4, DIMENSION).double()
    back = drawn.project_back(values)
    layers = list(drawn.outputs)
    found = torch.cat([back[name].flatten(1) for name in layers], dim=1)
    assert_close(found, values @ matrix(drawn))


def test_inner_products_survive_the_projection_on_average():
    dimension = 20_000
    model = TinyConvNet().double()
    full = matrix(projection(model, dimension))
    found = full.T @ full
    identity = torch.eye(len(found)).double()
    assert float((found - identity).abs().max()) < 6 / dimension**0.5
