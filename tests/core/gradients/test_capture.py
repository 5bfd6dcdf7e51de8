"""Per-example gradients against one autograd call an example."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sourcetrace.core.gradients.capture import ForwardPass, per_example_loss
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.gradients.per_example import (
    DenseGradient,
    LayerGradient,
    concatenate,
    from_tensors,
    squared_norms,
)
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.errors import InputError
from tests.core.layers.checks import check_gradients_of, normal
from tests.oracles.dense import flat, layer_gradients, model_gradients
from tests.tiny import TinyConvNet, assert_close, seeded

Losses = Callable[[Tensor], Tensor]


def sum_of_sines(outputs: Tensor) -> Tensor:
    """A loss with another gradient at every output, [B]."""
    values = outputs.flatten(1)
    return (values * (1 + torch.arange(values.shape[1], dtype=values.dtype))).sin().sum(1)


def captured(model: nn.Module, inputs: Tensor) -> ForwardPass:
    layers = find_layers(model, lambda: model(inputs.clone())).layers
    return ForwardPass(model, layers, lambda: model(inputs))


def gradients_of(model: nn.Module, inputs: Tensor) -> dict[str, LayerGradient]:
    passed = captured(model, inputs)
    output_gradients = passed.output_gradients(sum_of_sines(passed.outputs), last=True)
    return passed.gradients(passed.inputs(), output_gradients)


def expected_gradients(model: nn.Module, module: nn.Module, inputs: Tensor) -> Tensor:
    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(inputs[example : example + 1])).sum()

    return layer_gradients(module, loss_of, len(inputs))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [(), (1,), (4,), (2, 3)])
def test_linear_gradients_equal_the_per_example_loop(bias, positions):
    with seeded(1):
        model = nn.Sequential(nn.Linear(3, 2, bias=bias), nn.Tanh()).double()
        inputs = normal(5, *positions, 3)
    found = gradients_of(model, inputs)["0"]
    shared = positions in [(4,), (2, 3)]
    assert isinstance(found, DenseGradient if shared else FactoredGradient)
    assert_close(found.dense(), expected_gradients(model, model[0], inputs))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor]:
    """Every kind of Conv2d whose kernel fits an image of 5 to 6 by 5 to 7."""
    groups = draw(st.integers(1, 3))
    padding = draw(
        st.one_of(st.tuples(*[st.integers(0, 2)] * 2), st.sampled_from(["same", "valid"]))
    )
    stride = (1, 1) if padding == "same" else draw(st.tuples(*[st.integers(1, 3)] * 2))
    convolution = nn.Conv2d(
        groups * draw(st.integers(1, 2)),  # 1 is depthwise
        groups * draw(st.integers(1, 2)),
        draw(st.tuples(*[st.integers(1, 3)] * 2)),
        stride=stride,
        padding=padding,
        dilation=draw(st.tuples(*[st.integers(1, 2)] * 2)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    ).double()
    height, width = draw(st.integers(5, 6)), draw(st.integers(5, 7))
    with seeded(draw(st.integers(0, 99))):
        for parameter in convolution.parameters():
            nn.init.normal_(parameter)
        return convolution, normal(2, convolution.in_channels, height, width)


# torch says that an even kernel with padding 'same' costs a copy; it is the user's choice.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(convolutions())
def test_convolution_gradients_equal_the_per_example_loop(drawn):
    convolution, images = drawn
    model = nn.Sequential(convolution)
    found = gradients_of(model, images)["0"]
    assert_close(found.dense(), expected_gradients(model, convolution, images))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": (3, 2), "dilation": (1, 2)},
        {"padding": "same", "kernel_size": 2, "padding_mode": "circular"},
        {"padding": (2, 1), "kernel_size": 3, "padding_mode": "reflect", "stride": (2, 3)},
        {"padding": 1, "kernel_size": 3, "groups": 4, "bias": False},
        {"padding": "valid", "kernel_size": (5, 6)},
    ],
    ids=["same", "even same", "reflect", "depthwise", "one position"],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_convolution_gradients_of_named_configurations(options):
    with seeded(2):
        model = nn.Sequential(nn.Conv2d(4, 4, **options)).double()
        images = normal(3, 4, 5, 6)
    found = gradients_of(model, images)["0"]
    assert_close(found.dense(), expected_gradients(model, model[0], images))


def test_a_layer_called_by_keyword_is_captured():
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.linear(input=values)

    with seeded(3):
        coverage = check_gradients_of(ByKeyword().double(), normal(2, 3))
    assert [layer.name for layer in coverage.layers] == ["linear"]


def test_in_place_activations_leave_the_gradients_alone():
    with seeded(3):
        model = TinyConvNet().double()
        images = normal(4, 1, 5, 5)
    found = gradients_of(model, images)
    for name in ("first", "second", "head"):
        expected = expected_gradients(model, model.get_submodule(name), images)
        assert_close(found[name].dense(), expected)


def test_an_in_place_change_of_a_view_of_the_output_leaves_the_gradients_alone():
    class Reshapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.second = nn.Linear(2, 2)

        def forward(self, values: Tensor) -> Tensor:
            hidden = self.first(values).view(-1, 2, 2)
            hidden.tanh_()
            return self.second(hidden)

    with seeded(4):
        model = Reshapes().double()
        inputs = normal(4, 3)
    found = gradients_of(model, inputs)
    for name in ("first", "second"):
        expected = expected_gradients(model, model.get_submodule(name), inputs)
        assert_close(found[name].dense(), expected)


def test_one_forward_pass_serves_two_losses_and_no_weight_keeps_a_gradient():
    with seeded(5):
        model = TinyConvNet().double()
        images = normal(3, 1, 5, 5)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    passed = captured(model, images)
    calls.clear()
    inputs = passed.inputs()
    first = passed.output_gradients(sum_of_sines(passed.outputs), last=False)
    second = passed.output_gradients(3 * sum_of_sines(passed.outputs), last=True)
    assert not calls
    for name, gradient in passed.gradients(inputs, second).items():
        assert_close(gradient.dense(), 3 * passed.gradients(inputs, first)[name].dense())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_graph_is_freed_after_the_last_loss():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    passed = captured(model, torch.ones(2, 3))
    loss = sum_of_sines(passed.outputs)
    passed.output_gradients(loss, last=True)
    with pytest.raises(RuntimeError, match="second time"):
        passed.output_gradients(loss, last=True)


def test_gradients_are_taken_where_the_caller_switched_them_off():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    with torch.no_grad():
        passed = captured(model, torch.ones(2, 3, dtype=torch.float64))
    assert passed.outputs.requires_grad


def test_the_forms_of_a_gradient_agree():
    with seeded(6):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
        inputs = normal(5, 3)
        queries, others = normal(2, 1, 4, 4), normal(5, 1, 4, 4)
        input_basis, output_basis = normal(1, 4, 4), normal(1, 4, 4)
    factored = gradients_of(model, inputs)["0"]
    values = expected_gradients(model, model[0], inputs)
    for form in (factored, DenseGradient(values)):
        assert len(form) == 5
        products = torch.einsum("qgoi,ngoi->qn", queries, values)
        assert_close(form.products(queries), products)
        assert_close(form.paired_products(others), torch.einsum("ngoi,ngoi->n", others, values))
        assert_close(form.squared_norms(), values.flatten(1).norm(dim=1) ** 2)
        rotated = torch.stack([output_basis[0].T @ one[0] @ input_basis[0] for one in values])
        squares = form.rotated_squares(input_basis, output_basis)
        assert_close(squares[0], (rotated**2).sum(0))
        index = torch.tensor([3, 1])
        assert_close(form.rows(index).dense(), values[index])
        assert_close(from_tensors(form.tensors()).dense(), values)


@pytest.mark.parametrize("terms", [1, 3])
def test_the_forms_agree_on_groups(terms):
    with seeded(7):
        values = FactoredGradient(normal(4, 3, terms, 2), normal(4, 3, terms, 5))
        queries, others = normal(2, 3, 5, 2), normal(4, 3, 5, 2)
        input_basis, output_basis = normal(3, 2, 2), normal(3, 5, 5)
    dense = DenseGradient(
        torch.stack(
            [
                torch.stack([g.T @ a for g, a in zip(gs, inputs, strict=True)])
                for gs, inputs in zip(values.output_gradients, values.inputs, strict=True)
            ]
        )
    )
    assert_close(values.dense(), dense.values)
    assert_close(values.products(queries), dense.products(queries))
    assert_close(values.paired_products(others), dense.paired_products(others))
    assert_close(values.squared_norms(), dense.squared_norms())
    assert_close(
        values.rotated_squares(input_basis, output_basis),
        dense.rotated_squares(input_basis, output_basis),
    )


def test_norms_add_up_over_layers_and_parts_join():
    with seeded(8):
        model = TinyConvNet().double()
        images = normal(5, 1, 5, 5)

    def loss_of(example: int) -> Tensor:
        return sum_of_sines(model(images[example : example + 1])).sum()

    modules = [model.first, model.second, model.head]
    expected = flat(model_gradients(modules, loss_of, 5))
    joined = concatenate([gradients_of(model, images[:2]), gradients_of(model, images[2:])])
    assert_close(flat([joined[name].dense() for name in ("first", "second", "head")]), expected)
    assert_close(squared_norms(joined), expected.square().sum(1))


def test_an_input_changed_in_place_after_the_layer_read_it_is_refused():
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, values: Tensor) -> Tensor:
            outputs = self.linear(values)
            values.add_(1)
            return outputs

    passed = captured(Overwrites(), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"^linear: its input was changed in place"):
        passed.inputs()


def test_an_output_the_loss_does_not_use_is_refused():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            self.unused(values)
            return self.used(values)

    passed = captured(Aside(), torch.ones(2, 3))
    with pytest.raises(InputError, match=r"^unused: the loss does not depend on"):
        passed.output_gradients(passed.outputs.sum(1), last=True)


def test_a_layer_that_a_batch_skips_is_refused():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, values: Tensor) -> Tensor:
            hidden = self.first(values)
            return self.second(hidden) if values.sum() > 0 else hidden

    model = Sometimes()
    layers = find_layers(model, lambda: model(torch.ones(1, 3))).layers
    with pytest.raises(InputError, match="did not call second"):
        ForwardPass(model, layers, lambda: model(-torch.ones(1, 3)))


def test_no_hook_is_left_on_the_model_even_if_it_fails():
    model = nn.Sequential(nn.Linear(3, 2))
    layers = find_layers(model, lambda: model(torch.ones(1, 3))).layers
    with pytest.raises(RuntimeError):
        ForwardPass(model, layers, lambda: model(torch.ones(1, 4)))
    ForwardPass(model, layers, lambda: model(torch.ones(1, 3)))
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    "shape", [(), (1,), (4, 1), (4, 2)], ids=["a scalar", "one", "a column", "two values"]
)
def test_a_loss_that_is_not_one_value_an_example_is_refused_by_name(shape):
    with pytest.raises(InputError, match=r"^train_loss returned shape .* expected \[4\]"):
        per_example_loss(torch.zeros(shape), name="train_loss", examples=4)


def test_one_value_an_example_is_accepted():
    loss = F.mse_loss(torch.ones(4), torch.zeros(4), reduction="none")
    assert per_example_loss(loss, name="train_loss", examples=4) is loss
