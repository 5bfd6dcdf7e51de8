"""Which files of a folder are checkpoints, and which of them are one training run.

Checkpoints in sub-folders only are several training runs, one a sub-folder; or one run, where each
sub-folder holds one checkpoint and is named like checkpoint-20, checkpoint-40, …, or where
`checkpoints.stages` names sub-folders of a Trainer as the stages of a training.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os.path import isdir, isfile
from pathlib import Path

from sourcetrace.checkpoints.formats.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.formats.distributed_folder import DistributedFolder
from sourcetrace.checkpoints.formats.model_folder import ModelFolder
from sourcetrace.checkpoints.formats.safetensors_file import SafetensorsFile
from sourcetrace.checkpoints.formats.torch_file import SUFFIXES, TorchFile
from sourcetrace.checkpoints.formats.trainer_folder import TrainerFolder
from sourcetrace.checkpoints.formats.unread import refuse_parts, remedies
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names

_FORMATS: tuple[type[CheckpointFile], ...] = (
    *(TrainerFolder, DistributedFolder, ModelFolder),
    *(TorchFile, SafetensorsFile),
)


@dataclass(frozen=True)
class Layout:
    """The checkpoints of a folder.

    Attributes:
        folder: The folder.
        stage_ends: Stage -> its last step, as the parameters say.
        listed: Files and folders in it that are one run, in the order of their steps; empty where
            all that it holds counts.
    """

    folder: Path
    stage_ends: Mapping[str, int]
    listed: Sequence[Path] = ()

    def files(self) -> list[Path]:
        """Return the checkpoint files.

        Raises:
            InputError: If the folder is missing or holds none, or its sub-folders may be runs as
                well as checkpoints.
        """
        if self.listed:
            return [file for path in self.listed for file in self._files_at(path)]
        if not isdir(self.folder):  # of a name that is too long, Path.is_dir raises
            raise InputError(
                f"checkpoints.path: there is no folder {str(self.folder)!r}. Set "
                "checkpoints.path to the folder your training saved its checkpoints to."
            )
        inside = list(self.folder.iterdir())
        sub_folders = [list(one.iterdir()) for one in inside if one.is_dir()]
        for listed in (inside, *sub_folders):
            refuse_parts(listed)
        files = _checkpoint_files(self.folder) or self._in_sub_folders()
        # Beside its checkpoints, a Trainer may save the last model and its own state once more.
        if kind_of(self.folder) and not any(map(ModelFolder.is_one, files)):
            raise InputError(
                f"checkpoints.path: {str(self.folder)!r} is one checkpoint. Set checkpoints.path "
                f"to the folder that it lies in, {str(self.folder.parent)!r}."
            )
        if not files:
            known = remedies(sorted(chain(inside, *sub_folders)))
            names = known or sorted(path.name for path in inside)
            raise InputError(
                f"checkpoints.path: the folder {str(self.folder)!r} holds no checkpoint "
                f"({', '.join(SUFFIXES)}, .safetensors, or a folder of the Trainer, of accelerate "
                "or of torch.distributed.checkpoint), nor does a folder in it. It has "
                f"{format_names(names) or 'nothing'}. Save a few checkpoints during training "
                "(model_state_dict, optimizer_state_dict, step)."
            )
        return files

    def own_stage(self, file: Path) -> str | None:
        """Return the stage that a sub-folder of a Trainer's is; its steps count from 1."""
        name = file.parent.name
        is_inside = file.parent != self.folder and TrainerFolder.is_one(file)
        return name if is_inside and name in self.stage_ends else None

    def run_of(self, file: Path) -> str:
        """Return the run that a checkpoint is of; empty where there is one without a name."""
        inside = file.parent != self.folder
        one_run = self.listed or not inside or self.own_stage(file) or _is_checkpoint(file.parent)
        return "" if one_run else file.parent.name

    def _files_at(self, path: Path) -> list[Path]:
        if kind_of(path):
            return [path]
        if isfile(path):
            raise InputError(
                f"checkpoints.path: {str(path)!r} is no checkpoint that is read "
                f"({', '.join(SUFFIXES)}, .safetensors). Name the files that your training saved, "
                "or their folder."
            )
        return Layout(path, self.stage_ends).files()

    def _in_sub_folders(self) -> list[Path]:
        inside = {
            folder: found
            for folder in _sorted_by_name(self.folder.iterdir())
            if folder.is_dir() and (found := _checkpoint_files(folder))
        }
        stages = [folder.name for folder, found in inside.items() if self.own_stage(found[0])]
        if stages:
            others = [folder.name for folder in inside if folder.name not in stages]
            if others:
                raise InputError(
                    f"checkpoints.path: the sub-folders {format_names(stages)} are stages of "
                    f"checkpoints.stages, {format_names(others)} are not. Name every one of them "
                    "there, with its last step counted over all, or move them."
                )
            stages.sort(key=self.stage_ends.__getitem__)
            return [file for name in stages for file in inside[self.folder / name]]
        one_each = [folder.name for folder in inside if _is_checkpoint(folder)]
        kinds = {re.sub(r"[0-9]+", "#", name) for name in one_each}
        if one_each and (len(one_each) < len(inside) or len(kinds) > 1):
            counts = (f"{folder.name} ({len(found)})" for folder, found in inside.items())
            raise InputError(
                f"checkpoints.path: the sub-folders of {str(self.folder)!r} hold "
                f"{format_names(counts)} checkpoints; they are neither one training run "
                "(checkpoint-20, checkpoint-40, …: one checkpoint in each, the same name but for "
                "the number) nor the runs of an ensemble (several checkpoints in each). Move or "
                "rename what does not belong."
            )
        return [file for found in inside.values() for file in found]


def kind_of(path: Path) -> type[CheckpointFile] | None:
    """Return the format of what lies there, if it is a checkpoint."""
    return next((kind for kind in _FORMATS if kind.is_one(path)), None)


def _checkpoint_files(folder: Path) -> list[Path]:
    found = [path for path in _sorted_by_name(folder.iterdir()) if kind_of(path)]
    # Beside its checkpoints, the Trainer saves the final model and its arguments.
    return [path for path in found if path.is_dir()] or found


def _is_checkpoint(folder: Path) -> bool:
    """Return whether a sub-folder is a checkpoint of a run: one alone, and a number at its end."""
    return re.search(r"[0-9]$", folder.name) is not None and len(_checkpoint_files(folder)) == 1


def _sorted_by_name(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: _natural_order(path.name))


def _natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Order step_9 before step_10."""
    return [
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
