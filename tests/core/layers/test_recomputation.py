"""Activations that are computed again in the backward pass."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.errors import InputError
from tests.core.layers.checks import check_gradients_of, coverage_of, normal, passed, sum_of_sines
from tests.tiny import assert_close, seeded


class Recomputes(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.reentrant = reentrant

    def block(self, values: Tensor) -> Tensor:
        values = self.norm(values)
        return self.attention(values, values, values)[0].tanh()

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.first(values)
        return checkpoint(self.block, hidden, use_reentrant=self.reentrant)


def prepared(*, reentrant: bool) -> tuple[nn.Module, Tensor]:
    with seeded(91):
        return Recomputes(reentrant=reentrant).double().eval(), normal(4, 5, 3)


def test_non_reentrant_recomputation_leaves_the_gradients_alone():
    model, values = prepared(reentrant=False)
    assert check_gradients_of(model, values).share == 1


def test_two_losses_share_a_recomputed_forward_pass():
    model, values = prepared(reentrant=False)
    _, captured = passed(model, values)
    inputs = captured.inputs()
    first = captured.output_gradients(sum_of_sines(captured.outputs), last=False)
    second = captured.output_gradients(3 * sum_of_sines(captured.outputs), last=True)
    for name, gradient in captured.gradients(inputs, second).items():
        expected = captured.gradients(inputs, first)[name]
        assert_close(gradient.dense(), 3 * expected.dense())


def test_reentrant_recomputation_is_refused_with_what_to_change():
    model, values = prepared(reentrant=True)
    with pytest.raises(InputError, match=r"attention, norm ran without.*use_reentrant=False"):
        coverage_of(model, values)


def test_a_later_batch_without_gradients_is_refused_too():
    model, values = prepared(reentrant=False)
    layers = coverage_of(model, values).layers
    model.reentrant = True
    with pytest.raises(InputError, match=r"^norm ran without gradients"):
        ForwardPass(model, layers, lambda: model(values))


def test_a_frozen_part_may_run_without_gradients():
    model, values = prepared(reentrant=False)
    model.first.requires_grad_(False)

    def run(examples: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = model.first(examples)
        return model.block(hidden)

    names = {layer.name for layer in check_gradients_of(model, values, run).layers}
    assert names == {"norm", "attention.in_proj", "attention.out_proj"}
