"""Folders that torch.distributed.checkpoint wrote, of one process and of two."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.checkpoint.stateful import Stateful

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.formats.distributed_files import distributed_content
from sourcetrace.checkpoints.formats.distributed_folder import DistributedFolder
from sourcetrace.errors import InputError
from tests.checkpoints.formats import sharded_training

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def trained(steps=3, **settings):
    model = sharded_training.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **settings)
    sharded_training.train(model, optimizer, steps)
    return model, optimizer


def load(folder, model=None):
    reader = CheckpointFolder(folder)
    loaded = [reader.load(file, model or sharded_training.model()) for file in reader.files()]
    return reader, loaded


def in_torch(folder):
    model, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    weights, state = get_state_dict(model, optimizer)
    nested = {"model": weights, "optimizer": state, "step": 3, "scheduler": scheduler.state_dict()}
    dcp.save(nested, checkpoint_id=folder / "nested-3")
    plain = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "global_step": torch.tensor(3),
    }
    dcp.save(plain, checkpoint_id=folder / "plain-3")
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optim": state, "step": 3}, checkpoint_id=folder / "flat-3")

    class Application(Stateful):
        def state_dict(self):
            return {**nested, "random": torch.get_rng_state()}

        def load_state_dict(self, state_dict):
            raise NotImplementedError

    dcp.save({"app": Application()}, checkpoint_id=folder / "app-3")
    return model, optimizer


def assert_alike(folder, model, optimizer):
    """Hold every checkpoint of a folder against the training in memory, second moments included."""
    expected = {
        name: (optimizer.state[one]["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-8
        for name, one in model.named_parameters()
    }
    reader, loaded = load(folder)
    for one in loaded:
        record = one.record
        assert (record.step, record.optimizer, record.learning_rate) == (3, "AdamW", 0.01)
        for name, weight in model.state_dict().items():
            assert torch.allclose(one.state_dict[name], weight, rtol=1e-5, atol=1e-7)
        names = one.training.groups[0].names or tuple(expected)
        places = dict(zip(one.training.groups[0].places, ((name,) for name in names), strict=True))
        found = reader.denominators(one.file, one.sha256, places)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-7)
    return len(loaded)


def test_every_way_to_save_is_read(tmp_path):
    assert assert_alike(tmp_path, *in_torch(tmp_path)) == 4


def test_settings_of_groups_survive_being_flattened(tmp_path):
    model = sharded_training.model()
    groups = [
        {"params": model[0].parameters(), "lr": 0.01, "momentum": 0.5},
        {"params": model[2].parameters(), "lr": 0.02, "weight_decay": 0.1},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    sharded_training.train(model, optimizer, 2)
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": state, "step": 2}, checkpoint_id=tmp_path / "c-2")
    (loaded,) = load(tmp_path)[1]
    found = [(one.settings, one.names) for one in loaded.training.groups]
    assert [(own.learning_rate, own.momentum, own.weight_decay, names) for own, names in found] == [
        (0.01, 0.5, 0.0, ("0.weight", "0.bias")),
        (0.02, 0.0, 0.1, ("2.weight", "2.bias")),
    ]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_read_though_it_may_have_no_state(tmp_path, flat, momentum):
    model = sharded_training.model()
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
    sharded_training.train(model, optimizer, 2)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": state, "step": 2}, checkpoint_id=tmp_path / "c-2")
    (loaded,) = load(tmp_path)[1]
    found = [(one.settings, one.names) for one in loaded.training.groups]
    assert [(own.learning_rate, own.momentum, names) for own, names in found] == [
        (0.3, momentum, ("0.weight", "0.bias")),
        (0.1, momentum, ("2.weight", "2.bias")),
    ]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    processes = [
        subprocess.Popen(
            [sys.executable, sharded_training.__file__, str(folder), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    (folder / "store").unlink(missing_ok=True)
    return folder


def test_shards_of_several_processes_are_put_together(sharded):
    files = sorted(path.name for path in (sharded / "nested").iterdir())
    assert files == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert assert_alike(sharded, *trained()) == 2


def test_a_missing_shard_is_named(sharded, tmp_path):
    copy = shutil.copytree(sharded / "nested", tmp_path / "c-3")
    (copy / "__1_0.distcp").unlink()
    with pytest.raises(InputError, match=r"c-3: .* should lie in __1_0\.distcp, bytes .* of every"):
        load(tmp_path)


def test_a_shard_of_another_run_is_refused(sharded, tmp_path):
    copy = shutil.copytree(sharded / "nested", tmp_path / "c-3")
    shutil.copy(sharded / "nested" / "__0_0.distcp", copy / "__1_0.distcp")
    with pytest.raises(InputError, match="c-3"):
        load(tmp_path)


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("kind", ["metadata", "value"])
def test_pickled_code_is_refused_by_its_name_and_not_executed(tmp_path, kind):
    folder, trace = tmp_path / "c-3", tmp_path / "executed"
    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    step = Payload(trace) if kind == "value" else 3
    dcp.save({"model": weights, "optimizer": state, "step": step}, checkpoint_id=folder)
    if kind == "metadata":
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        metadata.planner_data = Payload(trace)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(InputError, match=r"c-3.*holds pickled Python objects \(.*open\).*nothing"):
        load(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name",
    [
        "posix system",
        "builtins eval",
        "torch load",
        "torch.hub load",
        "torch.distributed.checkpoint.metadata os",
        "torch.distributed.checkpoint.metadata Metadata.__init__",
    ],
)
def test_no_other_name_of_a_module_is_found(name):
    code = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\nX\x01\x00\x00\x001\x85R."
    with pytest.raises(InputError, match=r"c/\.metadata holds pickled Python objects"):
        distributed_content("c", {".metadata": code})


@pytest.mark.parametrize("code", [b"\x80\x02Kr\xff\xff\xff\x7f.", b"\x80\x05\x96" + b"\xff" * 8])
def test_a_pickle_that_would_fill_the_memory_is_refused(code):
    with pytest.raises(InputError, match=r"c/\.metadata cannot be read"):
        distributed_content("c", {".metadata": code})


def test_a_place_outside_the_folder_is_none(tmp_path):
    folder = tmp_path / "c-3"
    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": 3}, checkpoint_id=folder)
    shutil.move(folder / "__0_0.distcp", tmp_path / "secret.bytes")
    data = (folder / ".metadata").read_bytes()
    metadata = pickle.loads(data)
    for place in metadata.storage_data.values():
        place.relative_path = "../secret.bytes"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(InputError, match=r"should lie in \.\./secret\.bytes"):
        load(tmp_path)


def test_a_state_that_nothing_asks_for_may_hold_objects(tmp_path):
    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "step": 3, "loader": {"state": {1, 2}}}
    content["loader"]["other"] = pickle.Pickler
    dcp.save(content, checkpoint_id=tmp_path / "c-3")
    assert load(tmp_path)[1][0].record.step == 3


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path, name):
    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": 3}, checkpoint_id=tmp_path / "c-3")
    file = tmp_path / "c-3" / name
    data = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(InputError, match="c-3"):
            load(tmp_path)


def test_lightnings_own_file_beside_the_tensors_says_the_step(tmp_path):
    """The layout of Lightning's sharded checkpoints (FSDPStrategy, ModelParallelStrategy)."""
    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    weights = {f"net.{name}": one for name, one in weights.items()}
    folder = tmp_path / "epoch=0-step=3.ckpt"
    dcp.save({"state_dict": weights, "optimizer_0": state}, checkpoint_id=folder)
    torch.save({"global_step": 3, "epoch": 0, "lr_schedulers": []}, folder / "meta.pt")
    assert assert_alike(tmp_path, model, optimizer) == 1
    assert load(tmp_path)[1][0].record.id == "epoch=0-step=3"
    for content in (torch.zeros(1), [1, 2]):
        torch.save(content, folder / "meta.pt")
        with pytest.raises(InputError, match=r"meta\.pt holds a .*; expected the mapping"):
            load(tmp_path)
    shutil.rmtree(folder)
    dcp.save(
        {"state_dict": weights, "optimizer_0": state, "optimizer_1": state}, checkpoint_id=folder
    )
    with pytest.raises(InputError, match="several optimisers under optimizer_1"):
        load(tmp_path)


def test_tensors_alone_are_the_models_state(tmp_path):
    model = nn.Linear(2, 1)
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "c-3")
    weights = DistributedFolder(tmp_path / "c-3").found["model_state_dict"]
    assert torch.equal(weights["weight"], model.weight)
