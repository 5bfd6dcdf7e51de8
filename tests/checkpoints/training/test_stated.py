"""What a person says where checkpoints do not: parameters, and JSON beside them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.parameter_names import ModelParameters
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.errors import InputError

SGD = {"name": "SGD", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def load(folder, **stated):
    reader = CheckpointFolder(folder, stated=StatedParameters(**stated))
    return [reader.load(file, nn.Linear(2, 1)) for file in reader.files()]


@pytest.fixture(params=["pt", "safetensors"])
def bare(tmp_path, request):
    """Two state dicts and nothing else, with the first's path and how to name another."""
    for step in (400, 800):
        file = tmp_path / f"step_{step}.{request.param}"
        state = nn.Linear(2, 1).state_dict()
        torch.save(state, file) if request.param == "pt" else save_file(state, file)
    return tmp_path


def test_weights_alone_are_refused_with_what_to_set(bare):
    with pytest.raises(InputError) as refused:
        load(bare)
    for remedy in ("checkpoints.optimizer", "checkpoints.step_from", "step_400.json"):
        assert remedy in str(refused.value)
    with pytest.raises(InputError, match="lacks step"):
        load(bare, optimizer=SGD)
    with pytest.raises(InputError, match="lacks optimizer_state_dict"):
        load(bare, step_from="name")


def test_parameters_stand_for_a_lost_optimiser(bare):
    loaded = load(bare, optimizer=SGD, step_from="name")
    assert [one.record.step for one in loaded] == [400, 800]
    for one in loaded:
        assert one.training.sources["step"].startswith("assumed: the number in the name")
        assert one.training.sources["momentum"] == "assumed: checkpoints.optimizer"
        record = one.record
        assert (record.learning_rate, record.momentum, record.weight_decay) == (0.1, 0.9, 0.01)
        groups, places = ModelParameters(nn.Linear(2, 1)).name_groups(one.file, one.training)
        assert (groups[0].parameters, places) == (("weight", "bias"), {})


def test_a_json_file_says_the_same(bare):
    expected = load(bare, optimizer=SGD, step_from="name")
    settings = {key: value for key, value in SGD.items() if key != "name"}
    for step in (400, 800):
        content = json.dumps({"step": step, "optimizer": "SGD", **settings})
        (bare / f"step_{step}.json").write_text(content)
    # What lies beside a checkpoint is of it, parameters are of all.
    other = {"name": "SGD", "learning_rate": 7.0}
    for found in (load(bare), load(bare, optimizer=other)):
        assert [one.record for one in found] == [one.record for one in expected]


def test_what_the_json_file_leaves_out_the_parameters_say(bare):
    (bare / "step_400.json").write_text(json.dumps({"step": 5, "learning_rate": 0.05}))
    one = load(bare, optimizer=SGD, step_from="name")[0]
    record = one.record
    assert (record.step, record.learning_rate, record.momentum) == (5, 0.05, 0.9)
    sources = one.training.sources
    assert (sources["step"], sources["learning_rate"]) == ("step_400.json", "step_400.json")
    assert sources["optimizer"] == sources["momentum"] == "assumed: checkpoints.optimizer"
    adam = {"name": "adamw", "second_moments": "none", "weight_decay": 0.2}
    (found, _) = load(bare, optimizer={**adam, "learning_rate": 1.0}, step_from="name")
    assert (found.record.optimizer, found.record.learning_rate) == ("AdamW", 0.05)
    # Another optimiser's settings do not count.
    other = {"step": 5, "learning_rate": 0.05, "optimizer": "sgd"}
    (bare / "step_400.json").write_text(json.dumps(other))
    (found, _) = load(bare, optimizer={**adam, "learning_rate": 1.0}, step_from="name")
    assert (found.record.optimizer, found.record.weight_decay) == ("SGD", 0.0)
    assert found.training.sources["weight_decay"] == "step_400.json"


def test_every_setting_has_the_source_that_says_it(bare):
    (bare / "step_400.json").write_text(json.dumps({"momentum": 0.5, "learning_rate": None}))
    (one, _) = load(bare, optimizer=SGD, step_from="name")
    assert (one.record.learning_rate, one.record.momentum, one.record.weight_decay) == (
        0.1,
        0.5,
        0.01,
    )
    parameters = "assumed: checkpoints.optimizer"
    assert {name: one.training.sources[name] for name in SGD if name != "name"} == {
        "learning_rate": parameters,
        "momentum": "step_400.json",
        "weight_decay": parameters,
    }


@pytest.mark.parametrize("content", [{"optimizer": "SGD", "learning_rate": 0.1}, {}])
def test_second_moments_beside_a_checkpoint_of_sgd_are_refused(bare, content):
    save_file({"exp_avg_sq.bias": torch.ones(1)}, bare / "step_400.optimizer.safetensors")
    (bare / "step_400.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"step_400\.optimizer\.safetensors has Adam's .*of SGD"):
        load(bare, optimizer=SGD, step_from="name")


def test_groups_in_the_json_file_stand_for_the_rate_of_the_parameters(bare):
    groups = [
        {"parameters": ["weight"], "learning_rate": 0.2},
        {"parameters": ["bias"], "learning_rate": 0.3, "momentum": 0.5},
    ]
    (bare / "step_400.json").write_text(json.dumps({"parameter_groups": groups}))
    one = load(bare, optimizer=SGD, step_from="name")[0]
    rates = [(group.learning_rate, group.momentum) for group in one.record.groups]
    assert rates == [(0.2, 0.0), (0.3, 0.5)]
    assert one.training.sources["momentum"] == "step_400.json"


def test_what_the_checkpoint_says_itself_counts(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    content = {
        "step": 7,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "step_400.pt")
    (loaded,) = load(tmp_path, optimizer=SGD, step_from="name")
    assert (loaded.record.step, loaded.record.learning_rate) == (7, 0.5)


def test_a_file_with_an_epoch_alone_has_adams_own_count(tmp_path):
    """The shape of PyTorch's own tutorial."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    content = {
        "epoch": 1,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": 0.1,
    }
    torch.save(content, tmp_path / "model.pt")
    assert load(tmp_path)[0].record.step == 3


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_400", 400),
        ("epoch=3-step=400", 400),
        ("model_400", 400),
        ("resnet18-global_step400", 400),
        ("epoch=3-step=400-v1", 400),
        ("step_400_iter_3", 400),
        ("step_400 (copy)", 400),
    ],
)
def test_the_step_in_a_name(tmp_path, name, step):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / f"{name}.pt")
    assert load(tmp_path, optimizer=SGD, step_from="name")[0].record.step == step


def test_a_tar_in_the_suffix_is_not_of_the_name(tmp_path):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "step_10.pth.tar")
    (one,) = load(tmp_path, optimizer=SGD, step_from="name")
    assert (one.record.id, one.record.step) == ("step_10", 10)
    (tmp_path / "step_10.json").write_text('{"step": 20}')
    assert load(tmp_path, optimizer=SGD)[0].record.step == 20


def test_the_step_in_a_folders_name(tmp_path):
    (tmp_path / "checkpoint-400").mkdir()
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "checkpoint-400" / "model.pt")
    assert load(tmp_path, optimizer=SGD, step_from="name")[0].record.step == 400


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18_400", "numbers 18, 400; which of them"),
        ("substep_3_iter_400", "numbers 3, 400; which of them"),
        ("last", "there is no number in"),
        ("step_10k", "'k' follows 10; a step is written in digits alone"),
        ("model_10k", "'k' follows 10"),
        ("step_10_000", "'_0' follows 10"),
        ("step-10-000", "'-0' follows 10"),
        ("step_1e4", "'e' follows 1"),
        ("step-1.5M", "'.' follows 1"),
        ("step-1,5", "',' follows 1"),
    ],
)
def test_a_name_that_says_no_step_is_refused(tmp_path, name, message):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / f"{name}.pt")
    with pytest.raises(InputError, match=message):
        load(tmp_path, optimizer=SGD, step_from="name")


def test_a_scheduler_counts_steps_only_where_there_is_one(bare):
    with pytest.raises(InputError, match="has no scheduler that counts its steps"):
        load(bare, optimizer=SGD, step_from="scheduler")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_scheduler_that_others_step_too_counts_no_steps(tmp_path, processes):
    """As accelerate's, which is stepped once a process."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        for _ in range(processes):
            scheduler.step()
    content = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    content = {name: one.state_dict() for name, one in content.items()}
    torch.save(content, tmp_path / "a.pt")
    if processes == 1:
        assert load(tmp_path, step_from="scheduler")[0].record.step == 3
        return
    with pytest.raises(InputError, match="stepped 6 times, its optimiser counts 3 steps"):
        load(tmp_path, step_from="scheduler")
    assert load(tmp_path)[0].record.step == 3


def test_adam_needs_its_second_moments_or_a_word_that_they_are_lost(bare):
    adam = {"name": "AdamW", "learning_rate": 0.001}
    with pytest.raises(InputError, match=r"step_400\.optimizer\.safetensors is missing.*influence"):
        load(bare, optimizer=adam, step_from="name")
    reader = CheckpointFolder(
        bare, stated=StatedParameters({**adam, "second_moments": "none"}, "name")
    )
    loaded = reader.load(reader.files()[0], nn.Linear(2, 1))
    assert (loaded.record.optimizer, loaded.training.shapes) == ("AdamW", {})
    groups, places = ModelParameters(nn.Linear(2, 1)).name_groups(loaded.file, loaded.training)
    assert (groups[0].parameters, places) == (("weight", "bias"), {})
    with pytest.raises(InputError, match="has lost Adam's second moments"):
        reader.denominators(loaded.file, loaded.sha256, {})


def test_second_moments_beside_a_bare_file_are_read(bare):
    moments = {f"exp_avg_sq.{name}": torch.ones(shape) for name, shape in SHAPES.items()}
    for step in (400, 800):
        save_file(moments, bare / f"step_{step}.optimizer.safetensors")
    settings = {"name": "AdamW", "learning_rate": 0.001}
    reader = CheckpointFolder(bare, stated=StatedParameters(settings, "name"))
    loaded = reader.load(reader.files()[0], nn.Linear(2, 1))
    found = reader.denominators(loaded.file, loaded.sha256, {0: ("bias",), 1: ("weight",)})
    expected = (1 / (1 - 0.999**400)) ** 0.5 + 1e-8
    for name, shape in SHAPES.items():
        assert torch.allclose(found[name], torch.full(shape, expected))


SHAPES = {"weight": (1, 2), "bias": (1,)}


def test_a_json_file_that_is_too_long_is_not_read(bare):
    with (bare / "step_400.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match=r"step_400\.json has 1,073,741,824 bytes; expected"):
        load(bare)


@pytest.mark.parametrize("count", [float("nan"), torch.zeros(2), "three", [1]])
def test_a_count_that_is_no_number_is_none(tmp_path, count):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"] = count
    content = {"model": model.state_dict(), "optimizer": state}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match="lacks step"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SGD, "parameter_groups": [{"parameters": ["a"], "learning_rate": 0.1}]}, "give either"),
        ({"name": "Lion", "learning_rate": 0.1}, r"checkpoints\.optimizer\.name"),
        ({"learning_rate": 0.1}, r"checkpoints\.optimizer\.name: Field required"),
        ({**SGD, "betas": [0.9, 0.99]}, r"checkpoints\.optimizer\.betas"),
    ],
)
def test_parameters_that_are_wrong_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        StatedParameters(settings)


def test_a_name_alone_tells_the_state_of_adam_from_that_of_adamw(tmp_path):
    """Older versions of torch save no word of it."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    content = {"model": model.state_dict(), "optimizer": state, "step": 1}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"set checkpoints\.optimizer to \{name: AdamW\}"):
        CheckpointFolder(tmp_path).load(tmp_path / "a.pt", model)
    for name in ("adamw", "Adam"):
        stated = StatedParameters({"name": name})
        found = CheckpointFolder(tmp_path, stated=stated).load(tmp_path / "a.pt", model)
        assert found.record.optimizer.lower() == name.lower()
        assert found.training.sources["optimizer"] == "assumed: checkpoints.optimizer"
        assert found.training.sources["weight_decay"] == "optimizer_state_dict"
    (tmp_path / "a.json").write_text(json.dumps({"optimizer": "adamw"}))
    found = CheckpointFolder(tmp_path, stated=stated).load(tmp_path / "a.pt", model)
    assert (found.record.optimizer, found.training.sources["optimizer"]) == ("AdamW", "a.json")
    # What says it itself is not from there.
    state["param_groups"][0]["decoupled_weight_decay"] = True
    torch.save(content, tmp_path / "a.pt")
    found = CheckpointFolder(tmp_path).load(tmp_path / "a.pt", model)
    assert found.training.sources["optimizer"] == "optimizer_state_dict"
    (tmp_path / "a.json").unlink()
    # Of a lost state, it is not enough.
    del content["optimizer"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"lacks optimizer_state_dict.*set checkpoints\.optimizer"):
        CheckpointFolder(tmp_path, stated=stated).load(tmp_path / "a.pt", model)
