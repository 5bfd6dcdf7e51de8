"""A file of `torch.save`."""

from collections.abc import Mapping
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any

from sourcetrace.checkpoints.formats.checkpoint_file import CheckpointFile
from sourcetrace.checkpoints.formats.tensor_bytes import load_torch
from sourcetrace.checkpoints.formats.usual_names import under_our_names

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar")


class TorchFile(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a file named like one."""
        return path.name.endswith(SUFFIXES) and isfile(path)

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """See `CheckpointFile`."""
        name = self.path.name
        return under_our_names(name, load_torch(name, self._bytes[name]))
