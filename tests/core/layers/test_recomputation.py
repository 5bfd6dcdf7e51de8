"""Activations that are computed again in the backward pass."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sourcetrace.core.gradients.capture import ForwardPass
from sourcetrace.core.gradients.check import check_gradients
from sourcetrace.core.layers.discovery import find_layers
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


class Doubled(nn.Linear):
    """Is run twice while a pass is recorded."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(2 * values).tanh()


@pytest.mark.parametrize("kind", [Doubled, nn.EmbeddingBag])
@pytest.mark.parametrize("bare", [None, 100])
def test_what_is_run_again_is_no_part_of_it(kind, bare):
    with seeded(92):
        model = nn.ModuleList([kind(5, 4), nn.Linear(4, 3)]).double()
        model.scale = nn.Parameter(normal(4))
        values = torch.randint(5, (4, 5)) if kind is nn.EmbeddingBag else normal(4, 5)

    def run(examples: Tensor) -> Tensor:
        block = lambda x: (model[0](x) * model.scale).tanh()  # noqa: E731
        return model[1](checkpoint(block, examples, use_reentrant=False))

    forward = partial(run, values)
    coverage = find_layers(model, forward, examples=4, bare=bare)
    assert [layer.name for layer in coverage.layers] == ["0", "1", *(["scale"] if bare else [])]
    seen = replace(coverage, layers=tuple(one for one in coverage.layers if not one.alone))
    assert check_gradients(model, seen, forward, sum_of_sines, examples=4) < 1e-9


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
