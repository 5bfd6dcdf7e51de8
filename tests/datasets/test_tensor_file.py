"""What waits on disk comes back layer by layer, and leaves nothing behind."""

from contextlib import ExitStack
from pathlib import Path

import torch
from filelock import FileLock

from sourcetrace.core.curvature.blocks import CurvatureBlock, EigenBasis
from sourcetrace.datasets.tensor_file import LayersOfFile, LazyLayers, folder_of, tensors_digest


def block(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(1, 3, 2, generator=generator, dtype=torch.float64)
    return CurvatureBlock(EigenBasis(None, values.mT @ values), values, 2 * values)


def check_same(one, other):
    assert one.tensors().keys() == other.tensors().keys()
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


class Owner:
    """Whose folder goes with it."""

    def __init__(self, parent):
        self.folder = folder_of(self, parent)


def test_a_folder_goes_with_its_owner(tmp_path):
    owner = Owner(tmp_path / "here")
    (owner.folder / "file").touch()
    del owner
    assert not list((tmp_path / "here").iterdir())


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path):
    used = Owner(tmp_path)
    left, other = tmp_path / "set-aside-left", tmp_path / "set-aside-by-somebody"
    for folder in (left, other):
        folder.mkdir()
    (left / "lock").touch()  # whose holder is gone
    (other / "notes").touch()
    Owner(tmp_path)
    assert not left.exists()
    assert other.exists()
    assert used.folder.exists()


def test_nobody_sweeps_a_folder_whose_lock_is_about_to_be_taken(tmp_path, monkeypatch):
    class Slow(FileLock):
        def acquire(self, *arguments, **options):
            Path(self.lock_file).touch()
            with ExitStack() as sweep:
                for left in tmp_path.glob("set-aside-*/lock"):
                    sweep.enter_context(FileLock(left, timeout=0))
                return super().acquire(*arguments, **options)

    monkeypatch.setattr("sourcetrace.datasets.tensor_file.FileLock", Slow)
    used = Owner(tmp_path)
    assert used.folder.exists()


def test_what_cannot_be_swept_is_let_alone(tmp_path):
    (tmp_path / "set-aside-other" / "lock").mkdir(parents=True)  # as of another user: no opening it
    Owner(tmp_path)
    assert (tmp_path / "set-aside-other").exists()


def test_a_file_without_layers_can_be_read(tmp_path):
    LayersOfFile.write(tmp_path / "file", {"0": {}})
    assert LayersOfFile.by_prefix(tmp_path / "file", CurvatureBlock) == {}


def test_a_layer_is_read_from_a_file_when_it_is_asked_for(tmp_path):
    path = tmp_path / "layers.safetensors"
    lazy = LazyLayers(["a.b/c"], lambda _: block(0))
    LayersOfFile.write(path, {"0": lazy, "1": {"a.b/c": block(1), "d": block(2)}})
    found = LayersOfFile.by_prefix(path, CurvatureBlock)
    assert {prefix: list(layers) for prefix, layers in found.items()} == {
        "0": ["a.b/c"],
        "1": ["a.b/c", "d"],
    }
    check_same(found["0"]["a.b/c"], block(0))
    check_same(found["1"]["d"], block(2))


class Elsewhere(torch.Tensor):
    """As a tensor on a GPU, whose bytes NumPy does not have."""

    def numpy(self):
        raise TypeError

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_digest_does_not_depend_on_the_device():
    values = torch.arange(6.0).reshape(2, 3)
    moved = {"values": values.as_subclass(Elsewhere)}
    assert tensors_digest(moved) == tensors_digest({"values": values})
