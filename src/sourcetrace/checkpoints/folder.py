"""A folder of ordinary PyTorch checkpoints, read without executing anything in them.

A folder with checkpoints in its sub-folders only holds several training runs, one a sub-folder.
"""

import hashlib
import io
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sourcetrace.checkpoints.learning_rates import read_learning_rates
from sourcetrace.checkpoints.optimizer_state import TrainingState, describe_training
from sourcetrace.checkpoints.parameter_names import without_wrappers
from sourcetrace.checkpoints.second_moments import denominators_of_sidecar, denominators_of_state
from sourcetrace.checkpoints.sidecar import OPTIMIZER_SUFFIX, optimizer_file, read_sidecar
from sourcetrace.core.training.segments import CheckpointRecord
from sourcetrace.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from sourcetrace.core.training.schedules import KnownRates


_WEIGHTS_KEPT = 8
"""State dicts kept in memory by a folder; blocks are visited checkpoint by checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """One loaded checkpoint.

    Attributes:
        record: Id, step, stage and optimiser settings; its groups have no names yet.
        training: What the file says of the training.
        file: Its file's name in the folder, with the run's sub-folder where there are several.
        sha256: Of the bytes that were loaded, an optimiser's file beside it included.
        bytes: Size of the file.
        state_dict: The model's.
    """

    record: CheckpointRecord
    training: TrainingState
    file: str
    sha256: str
    bytes: int
    state_dict: "Mapping[str, Tensor]"


class CheckpointFolder:
    """The checkpoints of a folder, in the natural order of their names, run after run."""

    def __init__(
        self,
        folder: Path,
        stages: Mapping[str, int] | None = None,
        learning_rates: Path | None = None,
    ) -> None:
        self._folder = folder
        self._stages = dict(stages or {})
        self._learning_rates = learning_rates
        self._weights: OrderedDict[str, Mapping[str, Tensor]] = OrderedDict()

    def files(self) -> list[Path]:
        """Return the checkpoint files.

        Raises:
            InputError: If the folder is missing or holds none.
        """
        if not self._folder.is_dir():
            raise InputError(
                f"checkpoints.path: there is no folder {str(self._folder)!r}. Set "
                "checkpoints.path to the folder your training saved its checkpoints to."
            )
        files = _checkpoint_files(self._folder) or [
            file
            for run in _sorted_by_name(self._folder.iterdir())
            if run.is_dir()
            for file in _checkpoint_files(run)
        ]
        if not files:
            raise InputError(
                f"checkpoints.path: the folder {str(self._folder)!r} holds no .pt and no "
                ".safetensors file, nor does a folder in it. Save a few checkpoints during "
                "training (model_state_dict, optimizer_state_dict, step)."
            )
        return files

    def digests(self, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return name -> SHA-256 of every checkpoint, and of the JSON beside it where it has one.

        Args:
            known: Name -> digest of checkpoints that were read already, and no others count;
                without it, every file is read.

        Raises:
            InputError: If there are no checkpoints.
        """
        found = dict(known or {}) or self.file_digests()
        for name in [name for name in found if name.endswith(".safetensors")]:
            sidecar = self._path_of(name).with_suffix(".json")
            if sidecar.exists():
                found[str(PurePosixPath(name).with_suffix(".json"))] = hashlib.sha256(
                    sidecar.read_bytes()
                ).hexdigest()
        return found

    def file_digests(self) -> dict[str, str]:
        """Return name -> SHA-256 of every checkpoint file, as the manifest has it.

        Raises:
            InputError: If there are no checkpoints.
        """
        return {
            file.relative_to(self._folder).as_posix(): _digest(file, file.read_bytes())
            for file in self.files()
        }

    def load(self, file: Path) -> Checkpoint:
        """Read one checkpoint.

        Raises:
            InputError: If it cannot be read safely, or does not say how it was trained.
        """
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            state_dict = _plain_names(_read_safetensors(file, data))
            training = read_sidecar(file)
        else:
            content = _read_pt(file, data)
            state_dict = _state_dict(file, content["model_state_dict"])
            training = describe_training(file, content)
        groups = tuple(group.settings for group in training.groups)
        name = file.relative_to(self._folder)
        record = CheckpointRecord(
            id=self.id_of(file),
            step=training.step,
            stage=training.stage or self._stage_of(training.step, file),
            learning_rate=groups[0].learning_rate,
            momentum=groups[0].momentum,
            weight_decay=groups[0].weight_decay,
            optimizer=training.optimizer,
            groups=groups,
            run="" if name.parent == Path() else name.parent.as_posix(),
        )
        digest = _digest(file, data)
        return Checkpoint(record, training, name.as_posix(), digest, len(data), state_dict)

    def id_of(self, file: Path) -> str:
        """Return the id of a file's checkpoint: its name, with the run's before it."""
        return file.relative_to(self._folder).with_suffix("").as_posix()

    @property
    def stage_ends(self) -> dict[str, int]:
        """Stage -> its last step, as the parameters say."""
        return dict(self._stages)

    def learning_rates(self, last_step: int) -> "KnownRates | None":
        """Return the learning rates of the file that the parameters name, if they name one."""
        if self._learning_rates is None:
            return None
        return read_learning_rates(self._learning_rates, last_step=last_step)

    def denominators(
        self, file_name: str, sha256: str, names: Mapping[int, tuple[str, ...]]
    ) -> "dict[str, Tensor]":
        """Return what Adam divided each parameter's gradient by, √v̂ + ε.

        Args:
            file_name: Of the checkpoint.
            sha256: What the manifest says of it.
            names: Place in the optimiser's state -> the parameter's names.

        Raises:
            InputError: If the file has changed since the manifest was written, or the second
                moments are missing or not finite.
        """
        file = self._path_of(file_name)
        data = file.read_bytes()
        _refuse_change(file_name, _digest(file, data), sha256)
        if file.suffix == ".safetensors":
            return denominators_of_sidecar(file, names)
        content = _read_pt(file, data)
        return denominators_of_state(file, content["optimizer_state_dict"], names)

    def weights(self, file_name: str, sha256: str) -> "Mapping[str, Tensor]":
        """Return the state dict of a file that the manifest describes.

        Raises:
            InputError: If the file has changed since the manifest was written.
        """
        kept = self._weights.get(sha256)
        if kept is None:
            checkpoint = self.load(self._path_of(file_name))
            _refuse_change(file_name, checkpoint.sha256, sha256)
            kept = checkpoint.state_dict
            if len(self._weights) >= _WEIGHTS_KEPT:
                self._weights.popitem(last=False)
        self._weights[sha256] = kept
        self._weights.move_to_end(sha256)
        return kept

    def _path_of(self, file_name: str) -> Path:
        # A manifest that was tampered with leads to no file outside the folder.
        *folders, name = [part for part in Path(file_name).parts if part not in ("/", "..")]
        return self._folder.joinpath(*folders[-1:], name)

    def _stage_of(self, step: int, file: Path) -> str:
        if not self._stages:
            return "training"
        for stage, last_step in sorted(self._stages.items(), key=lambda item: item[1]):
            if step <= last_step:
                return stage
        raise InputError(
            f"{file.name}: step {step} lies behind the last step of every stage in "
            f"checkpoints.stages ({self._stages}). Correct the last steps."
        )


def _checkpoint_files(folder: Path) -> list[Path]:
    return _sorted_by_name(
        file
        for file in folder.iterdir()
        if file.suffix in (".pt", ".safetensors")
        and not file.name.endswith(OPTIMIZER_SUFFIX)
        and file.is_file()
    )


def _sorted_by_name(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: _natural_order(path.name))


def _digest(file: Path, data: bytes) -> str:
    """Return the SHA-256 of a checkpoint's bytes and of its optimiser's file, if it has one."""
    digest = hashlib.sha256(data)
    if file.suffix == ".safetensors" and optimizer_file(file).exists():
        digest.update(optimizer_file(file).read_bytes())
    return digest.hexdigest()


def _refuse_change(file_name: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{file_name} has changed since checkpoint_ingest described it. "
            "Run the audit from its first stage again."
        )


def _read_pt(file: Path, data: bytes) -> Mapping[str, Any]:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            # torch warns of foreign pickles before it refuses them; the refusal is ours to word.
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file.name} holds pickled Python objects besides tensors, numbers and text; it was "
            "refused, nothing in it was executed. Save model_state_dict, optimizer_state_dict "
            "and step alone, not a whole model, and step as a plain int, not a numpy number."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{file.name} cannot be read as a checkpoint of torch.save: it is damaged or "
            f"cut short ({len(data):,} bytes). Copy it again, or remove it from the folder."
        ) from error
    needed = ("model_state_dict", "optimizer_state_dict", "step")
    missing = [key for key in needed if not isinstance(content, Mapping) or key not in content]
    if missing:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else "no mapping"
        raise InputError(
            f"{file.name} lacks {', '.join(missing)}; found: {found[:200]}. Expected a mapping "
            "with model_state_dict, optimizer_state_dict and step."
        )
    return dict(content)


def _state_dict(file: Path, content: Any) -> "Mapping[str, Tensor]":
    from torch import Tensor

    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise InputError(
            f"{file.name}: model_state_dict is not a mapping of names to tensors. Save "
            "model.state_dict() as it is."
        )
    return _plain_names(content)


def _plain_names(state_dict: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
    return dict(zip(without_wrappers(list(state_dict)), state_dict.values(), strict=True))


def _read_safetensors(file: Path, data: bytes) -> "Mapping[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise InputError(
            f"{file.name} cannot be read as safetensors: it is damaged or cut short "
            f"({len(data):,} bytes). Copy it again, or remove it from the folder."
        ) from error


def _natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Order step_9 before step_10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
