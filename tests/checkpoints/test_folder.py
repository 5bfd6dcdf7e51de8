"""Reading checkpoints: nothing executes, and every refusal names the file and the remedy."""

import json
import os
import pickle
import weakref

import pytest
import torch
from kedro.io import DatasetError
from safetensors.torch import save_file
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.parameter_names import ModelParameters
from sourcetrace.datasets.checkpoints import CheckpointsDataset
from sourcetrace.errors import InputError
from tests.tiny import state_of


def checkpoint(step=10, **settings):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **settings})
    return state_of(step, model, optimizer)


def only(folder, stages=None):
    reader = CheckpointFolder(folder, stages)
    return reader.load(reader.files()[0], nn.Linear(2, 1))


def test_the_training_state_comes_from_the_optimiser(tmp_path):
    torch.save(checkpoint(weight_decay=0.01), tmp_path / "a.pt")
    record = only(tmp_path).record
    assert (record.step, record.learning_rate, record.momentum, record.weight_decay) == (
        10,
        0.1,
        0.9,
        0.01,
    )


def test_files_are_read_in_the_natural_order_of_their_names(tmp_path):
    for name in ("step_10.pt", "step_9.pt", "step_100.pt", "step_²_.pt"):
        torch.save(checkpoint(), tmp_path / name)
    names = [file.name for file in CheckpointFolder(tmp_path).files()]
    assert names == ["step_9.pt", "step_10.pt", "step_100.pt", "step_²_.pt"]


def laid_out(folder, *names):
    for number, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint(number), folder / name)
    reader = CheckpointFolder(folder)
    loaded = [reader.load(file, nn.Linear(2, 1)) for file in reader.files()]
    assert reader.file_digests() == {one.file: one.sha256 for one in loaded}
    return [(one.record.run, one.record.step, one.file) for one in loaded]


@pytest.mark.parametrize("stem", ["checkpoint-", "epoch_", "", "epoch_1-step_"])
def test_numbered_folders_with_one_checkpoint_each_are_one_run(tmp_path, stem):
    names = [f"{stem}{number}/model.pt" for number in (9, 20, 100)]
    assert laid_out(tmp_path, *names) == [("", 1 + i, name) for i, name in enumerate(names)]


def test_an_id_is_the_whole_name_of_its_checkpoint(tmp_path):
    for number, name in enumerate(("epoch-0.25", "epoch-0.50", "epoch-0.75"), 1):
        (tmp_path / name).mkdir()
        content = checkpoint(number)
        torch.save(content["model_state_dict"], tmp_path / name / "model.pt")
        torch.save(content["optimizer_state_dict"], tmp_path / name / "optimizer.pt")
        (tmp_path / name / "training.json").write_text(json.dumps({"step": number}))
    torch.save(checkpoint(), tmp_path / "epoch-1.5.pt")
    folder = CheckpointFolder(tmp_path)
    ids = [folder.load(file, nn.Linear(2, 1)).record.id for file in folder.files()]
    assert ids == ["epoch-0.25", "epoch-0.50", "epoch-0.75"]
    assert folder.id_of(tmp_path / "epoch-1.5.pt") == "epoch-1.5"


@pytest.mark.parametrize(
    "names", [("run1/a.pt", "run1/b.pt", "run2/a.pt", "run2/b.pt"), ("one/a.pt", "two/a.pt")]
)
def test_other_sub_folders_are_the_runs_of_an_ensemble(tmp_path, names):
    assert [run for run, *_ in laid_out(tmp_path, *names)] == [name[:-5] for name in names]


@pytest.mark.parametrize(
    "names",
    [
        ("run1/a.pt", "run2/a.pt", "run2/b.pt"),
        ("checkpoint-20/a.pt", "checkpoint-40/a.pt", "final/a.pt"),
        ("epoch_1/a.pt", "step_2/a.pt"),
    ],
)
def test_sub_folders_that_may_be_runs_or_checkpoints_are_refused(tmp_path, names):
    with pytest.raises(InputError, match=r"neither one training run .* nor the runs"):
        laid_out(tmp_path, *names)


def test_what_is_saved_is_what_is_loaded_and_replaces_the_run_before(tmp_path):
    dataset = CheckpointsDataset(path=str(tmp_path))
    dataset.save([checkpoint(5), checkpoint(6)])
    dataset.save([checkpoint(7)])
    folder = dataset.load()
    assert [folder.load(file, nn.Linear(2, 1)).record.step for file in folder.files()] == [7]


def test_digests_are_of_every_file_that_says_how_it_was_trained(tmp_path):
    torch.save(checkpoint(), tmp_path / "a.pt")
    save_file({"w": torch.ones(1)}, tmp_path / "b.safetensors")
    sidecar = tmp_path / "b.json"
    sidecar.write_text(json.dumps({"step": 1, "learning_rate": 0.1}))
    folder = CheckpointFolder(tmp_path)
    before = folder.digests()
    assert list(before) == ["a.pt", "b.safetensors", "b.json"]
    sidecar.write_text(json.dumps({"step": 1, "learning_rate": 0.2}))
    changed = folder.digests(known={"b.safetensors": before["b.safetensors"]})
    assert list(changed) == ["b.safetensors", "b.json"]
    assert changed["b.json"] != before["b.json"]


def test_pickled_code_is_refused_and_not_executed(tmp_path):
    trace = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({**checkpoint(), "extra": Payload()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt holds pickled Python objects.*nothing in it"):
        only(tmp_path)
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match=r"a\.pt"):
        only(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 10, 500, -40])
def test_a_truncated_file_is_refused(tmp_path, kept):
    file = tmp_path / "a.pt"
    torch.save(checkpoint(), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.pt"):
        only(tmp_path)


def test_a_flipped_bit_in_a_weight_is_refused(tmp_path):
    file = tmp_path / "a.pt"
    content = checkpoint()
    torch.save(content, file)
    data = bytearray(file.read_bytes())
    data[data.index(content["model_state_dict"]["weight"].numpy().tobytes())] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt is damaged"):
        only(tmp_path)


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        CheckpointFolder(tmp_path / "nowhere").files()
    with pytest.raises(InputError, match="there is no folder"):
        CheckpointFolder(tmp_path / ("long" * 100)).files()
    (tmp_path / "notes.txt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"holds no checkpoint.*It has notes\.txt\."):
        CheckpointFolder(tmp_path).files()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize(
    ("weights", "optimizer", "step"),
    [
        ("state_dict", "optimizer", "global_step"),
        ("model", "optim", "iteration"),
        ("model_state", "optimizer_state", "num_steps"),
        ("net", "opt", "step"),
    ],
)
def test_usual_names_say_the_same_as_ours(tmp_path, suffix, weights, optimizer, step):
    content = checkpoint(weight_decay=0.01)
    schedule = {"base_lrs": [0.1], "last_epoch": 10}
    torch.save({**content, "lr_scheduler_state_dict": schedule}, tmp_path / "a.pt")
    expected = only(tmp_path)
    (tmp_path / "a.pt").unlink()
    torch.save(
        {
            weights: content["model_state_dict"],
            optimizer: content["optimizer_state_dict"],
            step: 10,
            "epoch": 3,
            "scheduler": schedule,
        },
        tmp_path / f"a{suffix}",
    )
    found = only(tmp_path)
    assert (found.record, found.training) == (expected.record, expected.training)
    assert all(map(torch.equal, found.state_dict.values(), expected.state_dict.values()))


def test_a_text_under_a_usual_name_is_a_name(tmp_path):
    content = checkpoint()
    content["optim"] = content.pop("optimizer_state_dict")
    torch.save({**content, "model": "linear", "optimizer": "SGD"}, tmp_path / "a.pt")
    assert only(tmp_path).record.optimizer == "SGD"


def test_one_thing_under_two_names_is_refused_where_they_differ(tmp_path):
    content = checkpoint()
    same = {key: value.clone() for key, value in content["model_state_dict"].items()}
    torch.save({**content, "model": same, "global_step": 10}, tmp_path / "a.pt")
    assert only(tmp_path).record.step == 10
    torch.save({**content, "model": {**same, "bias": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"different things under model_state_dict and model"):
        only(tmp_path)
    torch.save({**content, "global_step": 11}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="different things under step and global_step"):
        only(tmp_path)


@pytest.mark.parametrize("groups", [[3], [{"params": 3}], [{"params": ["weight"]}, {}], "x"])
def test_an_optimisers_state_of_another_shape_is_refused(tmp_path, groups):
    content = checkpoint()
    content["optimizer_state_dict"] = {"state": {}, "param_groups": groups}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: "):
        only(tmp_path)


def test_a_checkpoint_without_its_parts_is_refused(tmp_path):
    content = checkpoint()
    del content["step"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="lacks step"):
        only(tmp_path)


@pytest.mark.parametrize("step", [-1, "ten", 1.5, None])
def test_a_step_that_is_no_count_is_refused(tmp_path, step):
    torch.save(checkpoint(step), tmp_path / "a.pt")
    with pytest.raises(InputError, match="step"):
        only(tmp_path)


def test_safetensors_with_a_sidecar_give_the_same_record(tmp_path):
    state = checkpoint()["model_state_dict"]
    save_file(state, tmp_path / "a.safetensors")
    sidecar = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"lacks optimizer_state_dict .* write a\.json"):
        only(tmp_path)
    sidecar.write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json cannot be read as JSON"):
        only(tmp_path)
    sidecar.write_text(json.dumps({"step": 4, "learning_rate": 0.1, "optimizer": "Lion"}))
    with pytest.raises(InputError, match="optimizer"):
        only(tmp_path)
    sidecar.write_text(json.dumps({"step": 4, "learning_rate": 0.1, "stage": "tuning"}))
    loaded = only(tmp_path)
    assert (loaded.record.step, loaded.record.stage) == (4, "tuning")
    assert all(torch.equal(loaded.state_dict[key], state[key]) for key in state)
    (tmp_path / "a.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match="damaged"):
        only(tmp_path)


def test_stages_come_from_their_last_steps_where_the_file_is_silent(tmp_path):
    torch.save(checkpoint(20), tmp_path / "a.pt")
    assert only(tmp_path).record.stage == "training"
    assert only(tmp_path, {"tuning": 30, "pretraining": 15}).record.stage == "tuning"
    with pytest.raises(InputError, match="behind the last step"):
        only(tmp_path, {"pretraining": 15})


def test_weights_that_changed_since_the_manifest_are_refused(tmp_path):
    torch.save(checkpoint(), tmp_path / "a.pt")
    known = only(tmp_path)
    folder = CheckpointFolder(tmp_path)
    assert folder.weights("a.pt", known.sha256, nn.Linear(2, 1)).keys() == known.state_dict.keys()
    torch.save(checkpoint(11), tmp_path / "a.pt")
    with pytest.raises(InputError, match="has changed since"):
        CheckpointFolder(tmp_path).weights("a.pt", known.sha256, nn.Linear(2, 1))
    with pytest.raises(InputError, match="has changed since"):
        CheckpointFolder(tmp_path).denominators("a.pt", known.sha256, {})
    (tmp_path / "a.pt").unlink()
    with pytest.raises(InputError, match="is gone since"):
        CheckpointFolder(tmp_path).weights("a.pt", known.sha256, nn.Linear(2, 1))


def test_no_more_weights_are_kept_than_their_bytes_allow(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        torch.save(checkpoint(step), tmp_path / f"{step}.pt")
    folder, model = CheckpointFolder(tmp_path), nn.Linear(2, 1)
    digests = folder.file_digests()
    for most, alive in ((0, 0), (2 * 3 * 4, 2), (2**20, 3)):
        monkeypatch.setattr("sourcetrace.checkpoints.folder.KEPT_BYTES", most)
        given = [
            weakref.ref(folder.weights(name, digests[name], model)["weight"]) for name in digests
        ]
        assert sum(one() is not None for one in given) == alive


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save(checkpoint(), tmp_path / "elsewhere.pt")
    torch.save(checkpoint(), tmp_path / "run" / "a.pt")
    (tmp_path / "run" / "b.pt").symlink_to("a.pt")
    (tmp_path / "way").symlink_to(tmp_path / "run")
    folder = CheckpointFolder(tmp_path / "way")
    assert len([folder.load(file, nn.Linear(2, 1)) for file in folder.files()]) == 2
    (tmp_path / "run" / "b.pt").unlink()
    for name in ("b.pt", "a.json", "a.optimizer.safetensors"):
        (tmp_path / "run" / name).symlink_to("../elsewhere.pt")
        with pytest.raises(InputError, match=rf"{name} is a link that leads out of .*way"):
            folder.file_digests()
        (tmp_path / "run" / name).unlink()


def test_a_checkpoint_has_an_id_of_its_own(tmp_path):
    for name in ("a.ckpt", "a.pt"):
        torch.save(checkpoint(), tmp_path / name)
    with pytest.raises(InputError, match=r"a\.ckpt and a\.pt are called alike"):
        CheckpointFolder(tmp_path).files()
    for step in (1, 2):
        (tmp_path / "run" / f"step.{step}").mkdir(parents=True)
        for name in ("model.pt", "optimizer.pt"):
            (tmp_path / "run" / f"step.{step}" / name).touch()
    folder = CheckpointFolder(tmp_path / "run")
    assert list(map(folder.id_of, folder.files())) == ["step.1", "step.2"]


def test_what_no_training_saves_is_refused(tmp_path):
    state = {**checkpoint()["optimizer_state_dict"], "state": [1, 1]}
    endless = {}
    endless["a"] = endless
    odd = {**checkpoint(), "optimizer_state_dict": state}
    for content, why in ((odd, "holds what no training saves"), (endless, "unfolds to values")):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match=rf"a\.pt {why}"):
            CheckpointFolder(tmp_path).load(tmp_path / "a.pt", nn.Linear(2, 1))


@pytest.mark.parametrize("name", ["a.json", "a.optimizer.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "nothing", "folder"])
def test_what_is_no_file_is_not_read(tmp_path, name, kind):
    torch.save(checkpoint(), tmp_path / "a.pt")
    folder = CheckpointFolder(tmp_path)
    known = folder.file_digests()
    file = tmp_path / name
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"device": "/dev/zero", "loop": name, "nothing": "b.json"}[kind])
    with pytest.raises(InputError, match=rf"{name} is no file, or a link to none"):
        folder.file_digests()
    if name == "a.json":
        with pytest.raises(InputError, match=r"a\.json is no file"):
            folder.digests(known)


def test_an_index_that_leads_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret.json").write_text('{"weight_map": {"secret": 1}}')
    (tmp_path / "run/checkpoint-1").mkdir(parents=True)
    index = tmp_path / "run/checkpoint-1/model.safetensors.index.json"
    index.symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match=r"index\.json is a link that leads out of"):
        CheckpointFolder(tmp_path / "run").file_digests()


def test_a_folder_of_somebody_elses_checkpoints_is_never_replaced(tmp_path):
    torch.save(checkpoint(), tmp_path / "theirs.pt")
    with pytest.raises(DatasetError, match="they are left as they are"):
        CheckpointsDataset(path=str(tmp_path)).save([checkpoint(7)])
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.pt"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.net."])
def test_what_a_wrapper_put_before_every_name_is_taken_off(tmp_path, prefix):
    content = checkpoint()
    names = list(content["model_state_dict"])
    content["model_state_dict"] = {
        f"{prefix}{key}": value for key, value in content["model_state_dict"].items()
    }
    torch.save(content, tmp_path / "a.pt")
    assert list(only(tmp_path).state_dict) == names
    content["model_state_dict"][f"{prefix}other.weight"] = torch.ones(1)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"does not fit.*unexpected: .*other\.weight"):
        only(tmp_path)
    torch.save({**content, "model_state_dict": None}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="is not a mapping of names to tensors"):
        only(tmp_path)


def test_what_a_wrapper_had_beside_the_model_is_left_out_and_named(tmp_path, caplog):
    content = checkpoint()
    own = content["model_state_dict"]
    beside = {"crit.pos_weight": torch.ones(1)}
    content["model_state_dict"] = {f"net.{key}": value for key, value in own.items()} | beside
    torch.save(content, tmp_path / "a.pt")
    with caplog.at_level("INFO"):
        assert list(only(tmp_path).state_dict) == list(own)
    assert "the checkpoints have crit.pos_weight: left out" in caplog.text
    # Bare, or where the model's names lie under two prefixes, nothing is guessed.
    for names in ([""], ["net.", "average."]):
        weights = {f"{name}{key}": value for name in names for key, value in own.items()}
        torch.save({**content, "model_state_dict": weights | beside}, tmp_path / "a.pt")
        with pytest.raises(InputError, match=r"does not fit.*unexpected"):
            only(tmp_path)


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_models_own_names_stay_though_they_look_like_a_wrappers(tmp_path, is_wrapped):
    model = nn.ModuleDict({"module": nn.Linear(2, 1)})
    wrapped = nn.DataParallel(model) if is_wrapped else model
    optimizer = torch.optim.SGD(wrapped.named_parameters(), lr=0.1, momentum=0.9)
    content = {"model": wrapped.state_dict(), "optimizer": optimizer.state_dict(), "step": 0}
    torch.save(content, tmp_path / "a.pt")
    folder = CheckpointFolder(tmp_path)
    loaded = folder.load(folder.files()[0], model)
    names = ["module.weight", "module.bias"]
    assert list(loaded.state_dict) == names
    (group,), _ = ModelParameters(model).name_groups("a.pt", loaded.training)
    assert list(group.parameters) == names
