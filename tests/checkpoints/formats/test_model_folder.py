"""Folders of accelerate, and of save_pretrained, each one checkpoint."""

import json
import shutil

import accelerate
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def model():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def load(folder, **stated):
    reader = CheckpointFolder(folder, stated=StatedParameters(**stated))
    return [reader.load(file, model()) for file in reader.files()]


def by_accelerate(folder, *, kind=torch.optim.AdamW, safe=True, steps=(2, 4)):
    """Train two epochs of two steps and save the state after each."""
    accelerator = accelerate.Accelerator(
        cpu=True,
        project_config=accelerate.utils.ProjectConfiguration(
            project_dir=folder, automatic_checkpoint_naming=True
        ),
    )
    own = model()
    optimizer = kind(own.parameters(), lr=0.1, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    trained, optimizer, scheduler = accelerator.prepare(own, optimizer, scheduler)
    kept = {}
    for step in range(1, max(steps) + 1):
        optimizer.zero_grad()
        accelerator.backward(trained(torch.ones(1, 2) * step).square().sum())
        optimizer.step()
        scheduler.step()
        if step in steps:
            accelerator.save_state(safe_serialization=safe)
            kept[step] = {key: one.clone() for key, one in own.state_dict().items()}
    accelerator.free_memory()
    return folder / "checkpoints", kept


@pytest.mark.parametrize("safe", [True, False])
def test_adams_own_count_is_the_step_of_what_accelerate_saves(tmp_path, safe):
    folder, kept = by_accelerate(tmp_path, safe=safe)
    names = sorted(path.name for path in (folder / "checkpoint_0").iterdir())
    weights = "model.safetensors" if safe else "pytorch_model.bin"
    others = ["optimizer.bin", "random_states_0.pkl", "scheduler.bin"]
    assert names == sorted([weights, *others])
    (folder / "checkpoint_0" / "random_states_0.pkl").write_bytes(b"never read")
    loaded = load(folder)
    assert [(one.record.id, one.record.step) for one in loaded] == [
        ("checkpoint_0", 2),
        ("checkpoint_1", 4),
    ]
    for one in loaded:
        assert one.record.optimizer == "AdamW"
        sources = one.training.sources
        assert sources["step"] == "the optimiser's own count"
        assert sources["learning_rate"] == sources["second_moments"] == "optimizer.bin"
        assert one.training.scheduler.epochs == one.record.step
        expected = kept[one.record.step]
        assert all(torch.equal(one.state_dict[name], expected[name]) for name in expected)


def test_a_step_that_nothing_counts_is_asked_for(tmp_path):
    folder, _ = by_accelerate(tmp_path, kind=torch.optim.SGD)
    with pytest.raises(InputError, match=r"lacks step .*checkpoint_0/training\.json: .*step_from"):
        load(folder)
    assert [one.record.step for one in load(folder, step_from="scheduler")] == [2, 4]
    # The numbers that accelerate gives count the times it saved.
    assert [one.record.step for one in load(folder, step_from="name")] == [0, 1]
    for number, step in enumerate((20, 40)):
        (folder / f"checkpoint_{number}" / "training.json").write_text(json.dumps({"step": step}))
    assert [one.record.step for one in load(folder)] == [20, 40]
    digests = CheckpointFolder(folder).digests()
    assert "checkpoint_0/training.json" in digests


def test_several_models_are_refused(tmp_path):
    folder, _ = by_accelerate(tmp_path)
    shutil.copy(folder / "checkpoint_0/optimizer.bin", folder / "checkpoint_0/optimizer_1.bin")
    with pytest.raises(InputError, match=r"several models or optimisers \(optimizer_1\.bin\)"):
        load(folder)


@pytest.mark.parametrize("kind", ["optimizer", "scheduler"])
def test_two_states_of_one_kind_are_refused(tmp_path, kind):
    folder, _ = by_accelerate(tmp_path)
    shutil.copy(folder / f"checkpoint_0/{kind}.bin", folder / f"checkpoint_0/{kind}.pt")
    with pytest.raises(InputError, match=rf"has {kind}\.pt, {kind}\.bin; expected one of them"):
        load(folder)


def test_sharded_states_in_sub_folders_are_read(tmp_path):
    """The layout of accelerate's and the Trainer's FSDP with SHARDED_STATE_DICT."""
    own = model()
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1)
    for _ in range(2):
        own(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    weights, state = get_state_dict(own, optimizer)
    folder = tmp_path / "checkpoint-2"
    dcp.save({"model": weights}, checkpoint_id=folder / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": state}, checkpoint_id=folder / "optimizer_0")
    (accelerated,) = load(tmp_path)
    state_of_trainer = {"global_step": 2, "max_steps": 2}
    (folder / "trainer_state.json").write_text(json.dumps(state_of_trainer))
    (by_trainer,) = load(tmp_path)
    for one in (accelerated, by_trainer):
        assert (one.record.step, one.record.optimizer) == (2, "AdamW")
        assert torch.equal(one.state_dict["weight"], own.weight)
        assert one.training.shapes == {0: (1, 2), 1: (1,)}
    with pytest.raises(InputError, match=r"is one checkpoint\. Set"):
        load(folder)


def test_whole_states_of_a_sharded_training_are_read(tmp_path):
    """The names of accelerate's and the Trainer's FSDP with FULL_STATE_DICT."""
    own = model()
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1)
    own(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    weights, state = get_state_dict(own, optimizer)  # by the parameters' names, as FSDP's
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model_fsdp.bin")
    torch.save(state, folder / "optimizer.bin")
    (loaded,) = load(tmp_path)
    assert (loaded.record.step, loaded.training.groups[0].names) == (1, ("weight", "bias"))
    assert torch.equal(loaded.state_dict["weight"], own.weight)


def test_parts_with_an_index_need_no_trainer(tmp_path):
    folder, _ = by_accelerate(tmp_path)
    one = folder / "checkpoint_0"
    whole = load_file(one / "model.safetensors")
    (one / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint_1")
    weight_map = {}
    for number, (name, tensor) in enumerate(whole.items()):
        weight_map[name] = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensor}, one / weight_map[name])
    (one / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (loaded,) = load(folder)
    assert all(torch.equal(loaded.state_dict[name], whole[name]) for name in whole)
    (one / "optimizer.bin").unlink()
    (one / "scheduler.bin").unlink()
    settings = {"name": "SGD", "learning_rate": 0.1, "momentum": 0.9}
    with pytest.raises(InputError, match=r"checkpoint_0 lacks optimizer_state_dict .*; step"):
        load(folder)
    (alone,) = load(folder, optimizer=settings, step_from="name")
    assert (alone.record.step, alone.record.momentum) == (0, 0.9)


def test_home_made_folders_of_three_files_are_one_checkpoint(tmp_path):
    own = model()
    for step in (10, 20):
        folder = tmp_path / f"step_{step}"
        folder.mkdir()
        torch.save(own.state_dict(), folder / "model.pt")
        torch.save(torch.optim.SGD(own.parameters(), lr=0.1).state_dict(), folder / "optimizer.pt")
    assert [one.record.step for one in load(tmp_path, step_from="name")] == [10, 20]
