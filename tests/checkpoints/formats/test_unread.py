"""What lies in a folder and cannot be read is named, with what to do."""

import io
import tarfile

import pytest
import torch
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.errors import InputError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.h5", r"It has model\.h5 \(of TensorFlow or Keras"),
        ("model.onnx", r"model\.onnx \(a model for inference"),
        ("runs/model.onnx", r"model\.onnx \(a model for inference"),
        ("run.tar.gz", r"run\.tar\.gz \(an archive: unpack it\)"),
        ("model.pkl", r"model\.pkl \(a pickle: save the state_dict"),
        ("notes.txt", r"It has notes\.txt\."),
        ("__0_0.distcp", r"has __0_0\.distcp, but no \.metadata, .* `cp \*` leaves out"),
        ("step-2/__0_0.distcp", r"step-2 has __0_0\.distcp, but no \.metadata"),
        ("global_step2/mp_rank_00_model_states.pt", r"DeepSpeed: .* zero_to_fp32\.py"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        CheckpointFolder(tmp_path).files()


def load(folder, **stated):
    reader = CheckpointFolder(folder, stated=StatedParameters(**stated))
    return [reader.load(file, nn.Linear(2, 1)) for file in reader.files()]


def test_a_part_beside_whole_checkpoints_is_not_passed_over(tmp_path):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "step_1.pt")
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(InputError, match=r"step-2 has __0_0\.distcp"):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_said_to_be_one(tmp_path):
    torch.jit.script(nn.Linear(2, 1)).save(tmp_path / "step_1.pt")
    with pytest.raises(InputError, match=r"step_1\.pt is a TorchScript archive: a program"):
        load(tmp_path)


def test_a_tar_archive_is_unpacked_by_the_user(tmp_path):
    with tarfile.open(tmp_path / "model.pth.tar", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match=r"model\.pth\.tar is an archive \(\.tar\)"):
        load(tmp_path)


def test_what_pytorchs_examples_call_an_archive_is_read(tmp_path):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "step_3.pth.tar")
    settings = {"name": "SGD", "learning_rate": 0.1}
    (loaded,) = load(tmp_path, optimizer=settings, step_from="name")
    assert loaded.record.step == 3
