"""What stages have of every layer, in files, of which a layer at a time is read."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Protocol, Self, TypeVar

from torch import Tensor

from sourcetrace.datasets.tensor_file import TensorFile


class _HasTensors(Protocol):
    def tensors(self) -> dict[str, Tensor]: ...

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self: ...


_Value = TypeVar("_Value", bound=_HasTensors)


class LayersOfFile(Mapping[str, _Value]):
    """Layer -> what a file has of it, read anew whenever it is asked for.

    Args:
        file: Its tensors are called `<prefix>/<layer>/<part>`.
        names: Layer -> its tensors' names.
        make: Makes the value of them.
    """

    def __init__(
        self, file: TensorFile, names: Mapping[str, list[str]], make: type[_Value]
    ) -> None:
        self._file, self._names, self._make = file, names, make

    @classmethod
    def by_prefix(cls, path: Path, make: type[_Value]) -> "dict[str, LayersOfFile[_Value]]":
        """Return prefix -> layer -> value."""
        file = TensorFile(path)
        names: dict[str, dict[str, list[str]]] = {}
        for key in file.names():
            prefix, rest = key.split("/", 1)
            names.setdefault(prefix, {}).setdefault(rest.rsplit("/", 1)[0], []).append(key)
        return {prefix: cls(file, layers, make) for prefix, layers in names.items()}

    @staticmethod
    def write(path: Path, values: Mapping[str, Mapping[str, _Value]]) -> None:
        """Write prefix -> layer -> value, a layer at a time."""
        TensorFile(path).write_each(
            (f"{prefix}/{layer}/{part}", tensor)
            for prefix, layers in values.items()
            for layer in layers
            for part, tensor in layers[layer].tensors().items()
        )

    def __getitem__(self, layer: str) -> _Value:
        found = self._file.read(self._names[layer])
        return self._make.of_tensors({key.rsplit("/", 1)[1]: one for key, one in found.items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class SetAside(MutableMapping[str, _Value]):
    """Layer -> a value that waits on disk for its stage to end; its folder goes with it.

    Args:
        folder: In which a folder for it is made.
        make: Makes a value of its tensors.
    """

    def __init__(self, folder: Path, make: Callable[[Mapping[str, Tensor]], _Value]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="set-aside-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._make, self._files = make, dict[str, TensorFile]()

    def __setitem__(self, layer: str, value: _Value) -> None:
        file = TensorFile(self._folder / f"{len(self._files)}.safetensors")
        file.write(value.tensors())
        self._files[layer] = file

    def __getitem__(self, layer: str) -> _Value:
        return self._make(self._files[layer].read())

    def __delitem__(self, layer: str) -> None:
        self._files.pop(layer).path.unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
