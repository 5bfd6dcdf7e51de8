"""Tensors in one safetensors file, replaced as a whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.files import replacing


class TensorFile:
    """A safetensors file.

    Args:
        path: The file.
        sealed: What the tensors are; where it is given, the file holds a digest of it and of them.
    """

    def __init__(self, path: Path, *, sealed: str = "") -> None:
        self.path = path
        self._sealed = sealed

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors by name; a reader sees the old file or the new one, never a part."""
        dense = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        metadata = {"digest": _digest(dense, self._sealed)} if self._sealed else None
        with replacing(self.path) as partial:
            save_file(dense, partial, metadata=metadata)

    def read(self) -> dict[str, Tensor]:
        """Return the tensors by name.

        Raises:
            InputError: If the file is sealed and not as it was written, or is another one.
        """
        damaged = InputError(
            f"{self.path} is damaged, or another file was put in its place. Run `kedro run "
            "--pipelines gradient_extraction` and the stages after it again, or the whole audit, "
            "`kedro run --pipelines audit`."
        )
        try:
            with safe_open(self.path, framework="pt") as file:
                # Copied out of the mapped file: a matrix product's last bits depend on how its
                # operands are aligned, and the same numbers must give the same scores wherever
                # they were kept.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
                digest = (file.metadata() or {}).get("digest")
        except (SafetensorError, OSError) as error:
            raise damaged from error
        if self._sealed and digest != _digest(tensors, self._sealed):
            raise damaged
        return tensors


def _digest(tensors: Mapping[str, Tensor], sealed: str) -> str:
    content = hashlib.sha256(sealed.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        content.update(f"\0{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
