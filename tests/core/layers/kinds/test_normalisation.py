"""Affine parameters of normalisations: each feature a group of its own."""

import pytest
import torch
from torch import nn

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.errors import InputError
from tests.core.layers.checks import (
    check_all_counted,
    check_covariances,
    check_gradients_of,
    coverage_of,
    normal,
    passed,
    sum_of_sines,
)
from tests.tiny import assert_close, seeded

CASES = {
    "layer norm": (lambda: nn.LayerNorm(4), (4,)),
    "layer norm at positions": (lambda: nn.LayerNorm(4), (3, 2, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), (3, 4)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), (3, 4)),
    "rms norm of two dimensions": (lambda: nn.RMSNorm((3, 4), eps=0.1), (3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 2)),
    "group norm of vectors": (lambda: nn.GroupNorm(2, 4), (4,)),
    "instance norm 1d": (lambda: nn.InstanceNorm1d(4, affine=True), (4, 3)),
    "instance norm 2d": (lambda: nn.InstanceNorm2d(4, affine=True, eps=0.1), (4, 3, 2)),
    "instance norm 3d": (lambda: nn.InstanceNorm3d(4, affine=True), (4, 2, 3, 2)),
    "instance norm of running statistics": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (4, 3, 2),
    ),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(4), (4,)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), (4, 3)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4), (4, 3, 2)),
    "batch norm across machines": (lambda: nn.SyncBatchNorm(4), (4, 3)),
    "batch norm 3d": (lambda: nn.BatchNorm3d(4), (4, 2, 3, 2)),
}


def prepared(name, examples=5):
    build, shape = CASES[name]
    with seeded(41):
        module = build().double()
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + (0.5 if "var" in key else 0))
        return nn.Sequential(module).eval(), normal(examples, *shape)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_the_per_example_loop(name):
    model, inputs = prepared(name)
    coverage = check_gradients_of(model, inputs)
    check_all_counted(coverage, model)
    assert coverage.share == 1


@pytest.mark.parametrize("name", CASES)
def test_the_matrix_of_a_layer_reproduces_its_output(name):
    model, inputs = prepared(name)
    (layer,) = coverage_of(model, inputs).layers
    matrix = layer.weight_matrix(dict(model.named_parameters()))
    positions = layer.inputs_of(model[0], inputs, layer.sites[0]) @ matrix.mT
    outputs = layer.output_gradients_of(model[0], model(inputs), layer.sites[0])
    assert_close(positions, outputs)


def test_covariances_are_those_of_each_normalised_feature():
    model, inputs = prepared("layer norm at positions")
    activation, pseudo_gradient = check_covariances(model, inputs, "0")
    centred = inputs - inputs.mean(-1, keepdim=True)
    normalised = centred / (centred.square().mean(-1, keepdim=True) + model[0].eps).sqrt()
    met = torch.stack([normalised, torch.ones_like(normalised)], -1).flatten(1, 2)
    assert_close(activation, torch.einsum("nsfi,nsfj->fij", met, met) / len(inputs))
    outputs = model(inputs)
    (gradients,) = torch.autograd.grad(sum_of_sines(outputs).sum(), outputs)
    squares = gradients.square().flatten(1, 2).sum((0, 1)) / len(inputs)
    assert_close(pseudo_gradient, squares.reshape(4, 1, 1))


def test_batch_norm_of_the_batch_s_own_statistics_is_named():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)).eval()
    coverage = coverage_of(model, torch.randn(3, 4))
    assert {one.name for one in coverage.unattributed} == {"0.weight", "0.bias"}
    assert "track_running_stats is False" in coverage.unattributed[0].reason
    check_all_counted(coverage, model)


def test_batch_norm_in_training_mode_is_refused():
    model, inputs = prepared("batch norm 1d")
    layers = coverage_of(model, inputs).layers
    model.train()
    captured = ForwardPass(model, layers, lambda: model(inputs))
    with pytest.raises(InputError, match=r"training mode.*model\.eval"):
        captured.inputs()


def test_instance_norm_in_training_mode_leaves_its_statistics_alone():
    model, inputs = prepared("instance norm of running statistics")
    model.train()
    _, captured = passed(model, inputs)
    before = model[0].running_mean.clone()
    found = captured.inputs()["0"][..., :1]
    assert torch.equal(model[0].running_mean, before)
    assert_close(found, nn.functional.instance_norm(inputs).reshape(5, 4, -1, 1))


def test_instance_norm_of_one_example_is_refused():
    model = nn.Sequential(nn.InstanceNorm1d(4, affine=True)).double()
    layers = coverage_of(model, normal(2, 4, 3)).layers
    captured = ForwardPass(model, layers, lambda: model(normal(4, 3)))
    with pytest.raises(InputError, match=r"single example, \[4, 3\].*Give it a batch"):
        captured.inputs()


def test_many_small_groups_are_one_product():
    """What the loop over groups gives, in the same frame."""
    model, inputs = prepared("layer norm")
    _, captured = passed(model, inputs)
    found = captured.gradients(
        captured.inputs(), captured.output_gradients(sum_of_sines(captured.outputs), last=True)
    )["0"]
    assert isinstance(found, FactoredGradient)
    queries = normal(3, 4, 1, 2)
    assert_close(found.products(queries), torch.einsum("qgoi,ngoi->qn", queries, found.dense()))
