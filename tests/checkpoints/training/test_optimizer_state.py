"""Which optimisers are read, and how their parameters get their names."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from sourcetrace.checkpoints.formats.torch_file import TorchFile
from sourcetrace.checkpoints.formats.usual_names import under_our_names
from sourcetrace.checkpoints.parameter_names import ModelParameters, without_prefix
from sourcetrace.checkpoints.saved_checkpoint import SavedCheckpoint
from sourcetrace.checkpoints.training.optimizer_state import TrainingState
from sourcetrace.checkpoints.training.optimizers import OPTIMIZERS
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.core.training.optimizer_settings import OptimizerName, ParameterGroup
from sourcetrace.errors import InputError
from sourcetrace.schemas.checkpoints import OPTIMIZERS as NAMES
from tests.tiny import state_of

FILE = Path("a.pt")


class Shared(nn.Module):
    """Two linear layers of one shape, and a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)


def trained(model, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = model.second(model.first(torch.ones(2, 3)).tanh())
        model.head(hidden).square().sum().backward()
        optimizer.step()
    return state_of(steps, model, optimizer)


def opened(content, folder):
    torch.save(content, folder / "a.pt")
    return SavedCheckpoint(TorchFile(folder / "a.pt"), StatedParameters())


def denominators(optimizer_state, folder, names):
    """Return what a file with the state says."""
    content = {"step": 1, "model_state_dict": {}, "optimizer_state_dict": optimizer_state}
    return opened(content, folder).denominators(names)


def described(optimizer, **more):
    return TrainingState.of(
        FILE, {"step": 0, "optimizer_state_dict": optimizer.state_dict(), **more}
    )


def named(content, model):
    return ModelParameters(model).name_groups("a.pt", TrainingState.of(FILE, content))


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1.0),
        ({"momentum": 0.9}, 10.0),
        ({"momentum": 0.9, "nesterov": True}, 10.0),
        ({"momentum": 0.9, "dampening": 0.5}, 5.0),
        ({"dampening": 0.5}, 1.0),
    ],
)
def test_sgd_is_read_with_what_momentum_makes_of_a_step(settings, factor):
    state = described(torch.optim.SGD(Shared().parameters(), lr=0.1, weight_decay=0.2, **settings))
    (group,) = state.groups
    assert state.optimizer == "SGD"
    assert (group.settings.learning_rate, group.settings.weight_decay) == (0.1, 0.2)
    assert group.settings.step_factor == pytest.approx(factor)


def test_adam_and_adamw_are_told_apart():
    parameters = Shared().parameters
    assert described(torch.optim.Adam(parameters(), weight_decay=0.1)).optimizer == "Adam"
    assert described(torch.optim.AdamW(parameters(), amsgrad=True)).optimizer == "AdamW"


def test_an_older_state_that_does_not_say_which_adam_is_refused_until_the_file_does():
    state = torch.optim.AdamW(Shared().parameters(), weight_decay=0.1).state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    content = {"step": 0, "optimizer_state_dict": state}
    with pytest.raises(InputError, match=r'Add "optimizer": "AdamW" \(or "Adam"\)'):
        TrainingState.of(FILE, content)
    assert TrainingState.of(FILE, {**content, "optimizer": "AdamW"}).optimizer == "AdamW"
    state["param_groups"][0]["weight_decay"] = 0
    assert TrainingState.of(FILE, content).optimizer == "Adam"


@pytest.mark.parametrize("make", [torch.optim.ASGD, torch.optim.Rprop, torch.optim.SparseAdam])
def test_other_optimisers_are_refused_with_what_is_supported(make):
    with pytest.raises(
        InputError, match=r"not a supported one.*Supported are torch's SGD .*weights alone"
    ):
        described(make(Shared().parameters()))


def test_every_name_of_an_optimiser_may_be_in_the_manifest():
    names = {name for one in OPTIMIZERS for name in (one.name, one.decoupled) if name}
    assert names == set(get_args(OptimizerName)) == set(NAMES)
    page = (Path(__file__).parents[3] / "docs/reference/checkpoints.md").read_text()
    table = page[page.index("## Optimisers") : page.index("## What a saved scheduler says")]
    assert [one.name for one in OPTIMIZERS if one.name not in table] == []


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (torch.optim.SGD, {"trust_coefficient": 0.001}),
        (torch.optim.SGD, {"rho": 0.05, "adaptive": False}),
        (torch.optim.SGD, {"delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8}),
        (torch.optim.SGD, {"decoupled_weight_decay": True}),
        (torch.optim.AdamW, {"caution": True}),
    ],
    ids=["LARS", "SAM", "SGDP", "SGDW", "cautious AdamW"],
)
def test_an_optimiser_with_torchs_settings_and_others_is_refused_by_name(make, more):
    optimizer = make(Shared().parameters(), lr=0.1)
    # What schedulers write, and a group's name, are nothing foreign.
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 20)
    optimizer.param_groups[0]["name"] = "body"
    assert described(optimizer).optimizer in ("SGD", "AdamW")
    optimizer.param_groups[0].update(more)
    with pytest.raises(InputError, match=f"does not have: {', '.join(sorted(more))}"):
        described(optimizer)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_maximising_is_refused(make):
    with pytest.raises(InputError, match="maximize=True"):
        described(make(Shared().parameters(), lr=0.1, maximize=True))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (None, "no param_groups"),
        ([], "no param_groups"),
        (7, "no param_groups"),
        ([[0]], "no param_groups"),
        ([{"lr": "fast"}], "cannot be read"),
        ([{"lr": torch.zeros(2)}], "cannot be read"),
        ([{"dampening": float("nan")}], "dampening nan"),
        ([{"momentum": -1.0}], "momentum -1"),
    ],
)
def test_groups_that_torch_would_not_write_are_refused(groups, message):
    state = torch.optim.SGD(Shared().parameters(), lr=0.1).state_dict()
    if groups and isinstance(groups, list) and isinstance(groups[0], dict):
        groups = [state["param_groups"][0] | groups[0]]
    state["param_groups"] = groups
    with pytest.raises(InputError, match=message):
        TrainingState.of(FILE, {"step": 0, "optimizer_state_dict": state})


def test_adam_without_its_second_moments_is_refused():
    content = trained(model := Shared(), torch.optim.Adam(model.parameters()))
    content["optimizer_state_dict"]["state"] = {}
    with pytest.raises(InputError, match="no second moments"):
        TrainingState.of(FILE, content)


def test_one_group_of_all_parameters_is_in_the_models_order():
    model = Shared()
    (group,), places = named(trained(model, torch.optim.Adam(model.parameters())), model)
    assert list(group.parameters) == [name for name, _ in model.named_parameters()]
    assert places[5] == ("head.bias",)


def test_names_that_torch_saved_win_over_the_order():
    model = Shared()
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.second.named_parameters()), "lr": 0.1},
            {"params": list(model.first.named_parameters()), "lr": 0.2},
        ]
    )
    # Their names lack the module's: a user who joins parts names them in the checkpoint.
    content = trained(model, optimizer)
    content["parameter_names"] = ["second.weight", "second.bias", "first.weight", "first.bias"]
    groups, _ = named(content, model)
    assert [(g.learning_rate, g.parameters) for g in groups] == [
        (0.1, ("second.weight", "second.bias")),
        (0.2, ("first.weight", "first.bias")),
    ]
    whole = torch.optim.AdamW(model.named_parameters())
    (group,), _ = named(trained(model, whole), model)
    assert group.parameters[0] == "first.weight"


def test_groups_that_only_fit_in_one_way_are_named_by_their_shapes():
    model = Shared()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    groups, places = named(trained(model, optimizer), model)
    assert groups[0].parameters == ("first.weight", "second.weight", "head.weight")
    assert groups[1].parameters == ("first.bias", "second.bias", "head.bias")
    assert places[3] == ("first.bias",)


def test_groups_that_fit_in_several_ways_are_refused():
    model = Shared()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.second.parameters(), "lr": 0.1},
            {"params": [*model.first.parameters(), *model.head.parameters()]},
        ]
    )
    with pytest.raises(InputError, match=r"in several ways.*named_parameters"):
        named(trained(model, optimizer), model)


def test_an_optimiser_of_the_trainable_parameters_is_named_by_them():
    model = Shared()
    model.first.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    (group,), _ = named(trained(model, optimizer), model)
    assert group.parameters == ("second.weight", "second.bias", "head.weight", "head.bias")


def test_shapes_that_do_not_fit_the_model_are_refused():
    model, other = Shared(), Shared()
    other.head = nn.Linear(3, 4)
    content = trained(other, torch.optim.Adam(other.parameters()))
    with pytest.raises(InputError, match=r"head\.weight has shape \[4, 3\].*\[2, 3\]"):
        named(content, model)


def test_a_state_that_names_its_parameters_is_read_by_the_names(tmp_path):
    model = Shared()
    optimizer = torch.optim.AdamW(reversed(list(model.parameters())), lr=0.1)
    content = trained(model, optimizer)
    numbered = opened(content, tmp_path).denominators({2: ("second.bias",)})
    _, content["optimizer_state_dict"] = get_state_dict(model, optimizer)
    file = opened(content, tmp_path)
    (group,), places = ModelParameters(model).name_groups("a.pt", file.training())
    assert set(group.parameters) == set(model.state_dict())
    found = file.denominators(places)
    assert torch.equal(found["second.bias"], numbered["second.bias"])


def test_a_parameter_that_adam_never_moved_is_left_out():
    model = Shared()
    model.second.bias.requires_grad_(False)
    (group,), _ = named(trained(model, torch.optim.Adam(model.parameters())), model)
    assert "second.bias" not in group.parameters
    assert len(group.parameters) == 5


def test_a_tied_parameter_is_listed_under_all_its_names():
    model = Shared()
    model.second.weight = model.first.weight
    (group,), places = named(trained(model, torch.optim.Adam(model.parameters())), model)
    assert places[0] == ("first.weight", "second.weight")
    assert set(group.parameters) == set(model.state_dict())


def test_names_the_model_does_not_have_are_refused():
    model = Shared()
    content = trained(model, torch.optim.SGD(model.parameters(), lr=0.1))
    content["parameter_names"] = ["x", *list(model.state_dict())[1:]]
    with pytest.raises(InputError, match="parameters that the model does not: x"):
        named(content, model)
    content["parameter_names"] = ["x"]
    with pytest.raises(InputError, match="parameter_names has 1 names, the optimiser has 6"):
        named(content, model)


def test_a_model_of_many_parameters_is_matched_without_recursion():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(700)))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1]},
            {"params": [p for p in model.parameters() if p.dim() == 1]},
        ]
    )
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {"step": 1, "optimizer_state_dict": optimizer.state_dict()}
    groups, _ = named(content, model)
    assert groups[0].parameters[-1] == "699.weight"


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["module._orig_mod.a", "module._orig_mod.b"], "ab", ["a", "b"]),
        (["module.a", "b"], "ab", ["module.a", "b"]),
        (["net._orig_mod.a", "_fsdp_wrapped_module.b"], ["net.a", "b"], ["net.a", "b"]),
        (["_orig_mod.a", "_orig_mod.b"], ["_orig_mod.a", "_orig_mod.b"], None),
        # A child of the model's own is called so.
        (["module.a", "module.b"], ["module.a", "module.b", "a"], None),
        (["module.module.a", "module.b"], ["module.a", "b"], ["module.a", "b"]),
        (["module.a"], ["module.a", "a"], None),
        (["module.a", "module.b"], ["module.a", "module.b"], ["module.a", "module.b"]),
        (["net.a", "net.a.a"], ["a", "a.a", "net.c"], ["a", "a.a"]),
        (["x.y", "x.z"], "ab", ["x.y", "x.z"]),
        ([], "ab", []),
    ],
)
def test_a_prefix_is_taken_off_where_more_names_are_known_without_it(names, known, expected):
    assert without_prefix(names, known) == (names if expected is None else expected)


def test_weights_that_the_model_ties_may_be_in_the_file_under_one_name():
    model = Shared()
    model.second.weight = model.first.weight
    weights = model.state_dict()
    held = {name: value for name, value in weights.items() if name != "first.weight"}
    filled = ModelParameters(model).fill(held)
    assert filled.keys() == weights.keys()
    assert filled["first.weight"] is held["second.weight"]
    # What the model does not tie is still missing, and refused by whoever loads it.
    assert ModelParameters(model).fill({}) == {}


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_denominator_is_what_torch_divides_by(amsgrad, tmp_path):
    """One more step from the saved state, with its gradient known, gives it back."""
    model = nn.Linear(3, 2).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.0, 0.9), amsgrad=amsgrad)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 3, dtype=torch.float64)).square().mean().backward()
            before = model.weight.detach().clone()
            optimizer.step()
    # With β₁ = 0 the step is learning rate · gradient / denominator.
    expected = 0.1 * model.weight.grad / (before - model.weight.detach())
    found = denominators(optimizer.state_dict(), tmp_path, {0: ("weight",), 1: ("bias",)})
    assert torch.allclose(found["weight"], expected, rtol=1e-10)
    assert found["bias"].shape == (2,)


def test_an_entry_without_any_gradient_has_an_infinite_denominator(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.tensor([[1.0, 0.0]])).sum().backward()
    optimizer.step()
    found = denominators(optimizer.state_dict(), tmp_path, {0: ("weight",)})
    assert found["weight"][0].isfinite().tolist() == [True, False]


def test_diverged_second_moments_are_refused(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["exp_avg_sq"][0, 0] = torch.nan
    with pytest.raises(InputError, match="weight: Adam's second moments are negative or not"):
        denominators(state, tmp_path, {0: ("weight",)})


def test_the_step_factor_is_that_of_a_constant_gradient():
    """Torch's own momentum, run until it is steady."""
    for settings in (
        {"momentum": 0.8},
        {"momentum": 0.8, "nesterov": True},
        {"momentum": 0.8, "dampening": 0.3},
    ):
        parameter = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimizer = torch.optim.SGD([parameter], lr=0.1, **settings)
        for _ in range(200):
            before = parameter.item()
            parameter.grad = torch.ones((), dtype=torch.float64)
            optimizer.step()
        settings.pop("nesterov", None)
        expected = 0.1 * ParameterGroup(0.1, **settings).step_factor
        assert before - parameter.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"lr_scheduler_state_dict": {"gamma": 0.5}}, {"gamma": 0.5}),
        ({"scheduler": {"gamma": 0.5}}, {"gamma": 0.5}),
        ({"lr_schedulers": [{"gamma": 0.5}]}, {"gamma": 0.5}),
        ({"schedulers": [{"gamma": 0.5}, {"gamma": 0.9}]}, {}),
        ({"lr_scheduler": torch.zeros(2)}, {}),
        ({"scheduler": {}}, None),
        ({"lr_scheduler": None, "schedulers": []}, None),
    ],
)
def test_a_scheduler_is_found_though_it_may_not_be_understood(content, told):
    state = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1).state_dict()
    plain = {"optimizer_state_dict": state, "step": 1}
    held = under_our_names("a.pt", {**plain, **content})
    found = TrainingState.of(Path("a.pt"), held).scheduler
    assert told == (None if found is None else found.state)


def test_momentum_that_a_scheduler_cycles_is_seen_in_the_optimiser():
    weights = [nn.Parameter(torch.zeros(1))]
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(weights, lr=0.1)
    for optimizer in (sgd, adam):
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 20)
    plain = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    cycled = [
        TrainingState.of(FILE, {"optimizer_state_dict": one.state_dict(), "step": 0})
        .groups[0]
        .settings.momentum_cycles
        for one in (sgd, adam, plain)
    ]
    assert cycled == [True, False, False]
