"""Tensors in a safetensors file, replaced as a whole, and what such files have of every layer."""

import hashlib
import json
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.files import replacing
from sourcetrace.lazy import LazyMapping

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
"""What safetensors calls them."""

_ENTRY_BYTES = 256
"""At most, of what a file's header says of a tensor, its layer's name aside."""

_LOCK = "lock"
"""In a folder of what waits on disk; held as long as it is needed."""


def folder_of(owner: object, parent: Path) -> Path:
    """Make a folder for what waits on disk, which goes with its owner.

    What processes that were killed left there goes first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"set-aside-*/{_LOCK}"):
        # Whose process holds it no more, and which is not another user's.
        with suppress(OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    lock = FileLock(made / _LOCK, thread_local=False)
    lock.acquire(timeout=0)
    folder = made.rename(parent / f"set-aside-{made.name}")  # held before others look for it

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

    weakref.finalize(owner, remove)
    return folder


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
        metadata = {"digest": tensors_digest(dense, self._sealed)} if self._sealed else None
        with replacing(self.path) as partial:
            save_file(dense, partial, metadata=metadata)

    def write_each(self, tensors: Iterable[tuple[str, Tensor]], *, room: int) -> None:
        """Write named tensors as they come, so that one at a time is in memory.

        Args:
            tensors: All of the same number of bytes an entry, which are aligned then.
            room: Bytes for the header before them, which says where each is; a multiple of 8.
        """
        entries: dict[str, Any] = {}
        end = 0
        with replacing(self.path) as partial, partial.open("wb") as file:
            file.seek(8 + room)
            for key, tensor in tensors:
                dense = tensor.detach().cpu().contiguous()
                file.write(dense.reshape(-1).view(torch.uint8).numpy().data)
                start, end = end, end + dense.nbytes
                entries[key] = {
                    "dtype": _NAMES[dense.dtype],
                    "shape": list(dense.shape),
                    "data_offsets": [start, end],
                }
            header = json.dumps(entries).encode().ljust(room)
            if len(header) > room:
                raise ValueError(f"{self.path}: {room} bytes hold no header of {len(header)}")
            file.truncate(8 + room + end)  # without tensors nothing was written behind the header
            file.seek(0)
            file.write(struct.pack("<Q", room) + header)

    def names(self) -> list[str]:
        """Return the tensors' names."""
        with self._opened() as file:
            return list(file.keys())

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the tensors by name.

        Args:
            names: Of those that are wanted; None for all. Some of a sealed file cannot be checked.

        Raises:
            InputError: If the file is sealed and not as it was written, or is another one.
        """
        with self._opened() as file:
            # Copied out of the mapped file: a matrix product's last bits depend on how its
            # operands are aligned, and the same numbers must give the same scores wherever they
            # were kept.
            wanted = file.keys() if names is None else names
            tensors = {key: file.get_tensor(key).clone() for key in wanted}
            digest = (file.metadata() or {}).get("digest")
        if self._sealed and digest != tensors_digest(tensors, self._sealed):
            raise self._damaged()
        return tensors

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self.path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise self._damaged() from error

    def _damaged(self) -> InputError:
        return InputError(
            f"{self.path} is damaged, or another file was put in its place. Run `kedro run "
            "--pipelines gradient_extraction` and the stages after it again, or the whole audit, "
            "`kedro run --pipelines audit`."
        )


class _HasTensors(Protocol):
    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self: ...


LayerValue = TypeVar("LayerValue", bound=_HasTensors)


class LazyLayers(LazyMapping[LayerValue]):
    """Layer -> a value, made anew whenever it is asked for."""

    @classmethod
    def joined(cls, parts: Iterable[Mapping[str, LayerValue]]) -> "LazyLayers[LayerValue]":
        """Return the layers of all parts."""
        owners = {name: part for part in parts for name in part}
        return LazyLayers(owners, lambda name: owners[name][name])


class LayersOfFile(LazyLayers[LayerValue]):
    """Layer -> what a file has of it.

    Args:
        file: Its tensors are called `<prefix>/<layer>/<part>`.
        names: Layer -> its tensors' names.
        make: Makes the value of them.
    """

    def __init__(
        self, file: TensorFile, names: Mapping[str, list[str]], make: type[LayerValue]
    ) -> None:
        def read(layer: str) -> LayerValue:
            found = file.read(names[layer])
            return make.of_tensors({key.rsplit("/", 1)[1]: one for key, one in found.items()})

        super().__init__(names, read)

    @classmethod
    def by_prefix(cls, path: Path, make: type[LayerValue]) -> "dict[str, LayersOfFile[LayerValue]]":
        """Return prefix -> layer -> value."""
        file = TensorFile(path)
        names: dict[str, dict[str, list[str]]] = {}
        for key in file.names():
            prefix, rest = key.split("/", 1)
            names.setdefault(prefix, {}).setdefault(rest.rsplit("/", 1)[0], []).append(key)
        return {prefix: cls(file, layers, make) for prefix, layers in names.items()}

    @staticmethod
    def write(path: Path, values: Mapping[str, Mapping[str, LayerValue]]) -> None:
        """Write prefix -> layer -> value, a layer at a time."""
        names = [f"{prefix}/{layer}" for prefix, layers in values.items() for layer in layers]
        TensorFile(path).write_each(
            (
                (f"{prefix}/{layer}/{part}", tensor)
                for prefix, layers in values.items()
                for layer in layers
                for part, tensor in layers[layer].tensors().items()
            ),
            room=8 + 8 * sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names),
        )


def tensors_digest(tensors: Mapping[str, Tensor], sealed: str = "") -> str:
    """Return the SHA-256 of tensors by name, and of what they are."""
    content = hashlib.sha256(sealed.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        content.update(f"\0{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            content.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
