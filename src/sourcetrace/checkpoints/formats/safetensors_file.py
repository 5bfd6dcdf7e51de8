"""A `.safetensors` file, of weights alone."""

from collections.abc import Mapping
from functools import cached_property
from os.path import isfile
from pathlib import Path
from typing import Any

from sourcetrace.checkpoints.formats.checkpoint_file import MOMENTS_SUFFIX, CheckpointFile
from sourcetrace.checkpoints.formats.tensor_bytes import tensors_of


class SafetensorsFile(CheckpointFile):
    """See `CheckpointFile`."""

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Return whether it is a file that holds weights."""
        other = path.name.endswith(MOMENTS_SUFFIX)
        return path.suffix == ".safetensors" and not other and isfile(path)

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """See `CheckpointFile`."""
        return {"model_state_dict": tensors_of(self.path.name, self._bytes[self.path.name])}
