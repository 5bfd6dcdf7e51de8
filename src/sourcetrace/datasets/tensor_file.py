"""Tensors in one safetensors file, replaced as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sourcetrace.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", *, identity: str = "") -> None:
    """Write tensors under `path`; a reader sees the old file or the new one, never a part."""
    from safetensors.torch import save_file

    with replacing(path) as partial:
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
            partial,
            metadata={"identity": identity},
        )


def read_identity(path: Path) -> str:
    """Return the `identity` that `write_tensors` was given."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("identity", ""))


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read what `write_tensors` wrote."""
    from safetensors.torch import load_file

    # Copied out of the mapped file: a matrix product's last bits depend on how its operands
    # are aligned, and the same numbers must give the same scores wherever they were kept.
    return {key: tensor.clone() for key, tensor in load_file(path).items()}
