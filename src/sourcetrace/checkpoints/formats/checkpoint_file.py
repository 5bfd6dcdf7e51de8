"""What the formats of checkpoints have in common: their files, read once, and what these hold."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os.path import isdir, isfile, lexists
from pathlib import Path
from typing import Any, ClassVar

from sourcetrace.checkpoints.formats.own_files import read_own
from sourcetrace.checkpoints.formats.tensor_bytes import small

MOMENTS_SUFFIX = ".optimizer.safetensors"
"""Of the file with `exp_avg_sq.<parameter>` (or `max_exp_avg_sq.…`, for amsgrad)."""


class CheckpointFile(ABC):
    """A checkpoint of one format, its files read once. A new format is one more such class.

    Each method raises InputError if the file cannot be read safely, or lacks what is asked.

    Attributes:
        save_optimizer: How a training saves its optimiser in this format.
        path: The file, or the folder of a format that writes several.
        root: The folder of all checkpoints.
        beside: The JSON file beside it, where there is one.
        size: Of its files, in bytes.
        sha256: Of all their bytes, one file after the other, Adam's second moments beside included.
    """

    save_optimizer: ClassVar[str] = "Save optimizer.state_dict() in it."

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """Read its files."""
        self.path, self.root = path, root or path.parent
        moments = files_beside(path)[1]
        files = [*self.files_of(path, self.root), *([moments] if lexists(moments) else [])]
        folder = path if isdir(path) else path.parent
        self._bytes = {
            file.relative_to(folder).as_posix(): read_own(file, self.root) for file in files
        }
        self.beside = read_beside(path, self.root)
        self.size = sum(map(len, self._bytes.values()))
        digest = hashlib.sha256()
        for data in self._bytes.values():
            digest.update(data)
        self.sha256 = digest.hexdigest()
        self.moments = self._bytes.get(moments.name)

    @classmethod
    @abstractmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether a checkpoint of this format lies there, by its name."""

    @classmethod
    def files_of(cls, path: Path, root: Path) -> Sequence[Path]:
        """Return the files of the checkpoint below the folder of all, each of which is read."""
        return [path]

    @property
    @abstractmethod
    def found(self) -> Mapping[str, Any]:
        """What its files say, by the names of `USUAL_NAMES`; and what is optional."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Name in `schemas.CheckpointManifest` -> where the value is from, other than `found`."""
        return {}

    @property
    def logged(self) -> tuple[Mapping[int, float], int] | None:
        """Step -> learning rate, as a training logged it, and the steps that it planned."""
        return None


def files_beside(path: Path) -> tuple[Path, Path]:
    """Return the JSON file of a checkpoint and Adam's second moments, there or not.

    Beside a checkpoint `a.pt` lie `a.json` and `a.optimizer.safetensors`; in a folder that is one
    checkpoint, `training.json` and `training.optimizer.safetensors`.
    """
    if isdir(path):
        return path / "training.json", path / f"training{MOMENTS_SUFFIX}"
    stem = name_of(path)
    return path.with_name(f"{stem}.json"), path.with_name(stem + MOMENTS_SUFFIX)


def name_of(path: Path) -> str:
    """Return a checkpoint's name: a file's without its suffix, a folder's whole but for .ckpt."""
    if isdir(path):
        return path.name.removesuffix(".ckpt")
    return Path(path.name.removesuffix(".tar")).stem


def read_beside(path: Path, root: Path) -> bytes | None:
    """Return the JSON file of a checkpoint, None where there is none; see `read_own`."""
    json, _ = files_beside(path)
    if not lexists(json):
        return None
    return read_own(small(json) if isfile(json) else json, root)
