"""A folder that `torch.distributed.checkpoint` wrote, of any number of processes."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any

from sourcetrace.checkpoints.formats.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.formats.distributed_files import METADATA, distributed_content
from sourcetrace.checkpoints.formats.tensor_bytes import load_torch
from sourcetrace.checkpoints.formats.usual_names import under_our_names
from sourcetrace.errors import InputError

_OF_LIGHTNING = "meta.pt"
"""Beside the tensors: what else Lightning's checkpoint holds."""


class DistributedFolder(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether there is a description of tensors in it."""
        return isfile(path / METADATA)

    @classmethod
    def files_of(cls, path: Path, root: Path) -> Sequence[Path]:
        """Return the description, the tensors, and what Lightning adds."""
        other = path / _OF_LIGHTNING
        return [
            path / METADATA,
            *sorted(path.glob("*.distcp")),
            *([other] if isfile(other) else []),
        ]

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """See `CheckpointFile`."""
        content = distributed_content(self.path.name, self._bytes)
        if _OF_LIGHTNING in self._bytes:
            name = f"{self.path.name}/{_OF_LIGHTNING}"
            other = load_torch(name, self._bytes[_OF_LIGHTNING])
            if not isinstance(other, Mapping):
                raise InputError(
                    f"{name} holds a {type(other).__name__}; expected the mapping that Lightning "
                    "writes. Copy the folder again, or remove the file where it is not Lightning's."
                )
            content |= dict(other)
        return under_our_names(self.path.name, content)
