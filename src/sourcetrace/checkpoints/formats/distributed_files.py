"""What `torch.distributed.checkpoint` writes: `.metadata`, and `.distcp` files with the tensors.

`.metadata` is a pickle that torch itself reads with `pickle.load`. Here the names of torch's few
classes in it stand for records without behaviour; any other name ends the reading. Each tensor
lies in chunks, one a process, each of them a file of `torch.save` within a `.distcp` file.
"""

import io
import pickle
import pickletools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sourcetrace.checkpoints.formats.pickles import refuse_unfolded, refuse_unfolding
from sourcetrace.checkpoints.formats.tensor_bytes import load_torch
from sourcetrace.checkpoints.formats.usual_names import USUAL_NAMES
from sourcetrace.errors import InputError
from sourcetrace.formats import shorten

METADATA = ".metadata"

_NAMED = {name for names in USUAL_NAMES.values() for name in names}


class _Record:
    """Stands for an object of a class that nothing is called of."""

    state: Any = ()

    def __init__(self, *arguments: object) -> None:
        self.state = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN: Mapping[tuple[str, str], Any] = {
    **dict.fromkeys(
        [
            *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
            *((_METADATA, f"{name}StorageMetadata") for name in ("Bytes", "Chunk", "Tensor")),
            *((_METADATA, name) for name in ("TensorProperties", "_MEM_FORMAT_ENCODING")),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            # Where the training had saved it.
            *(
                (module, f"{system}Path")
                for module in ("pathlib", "pathlib._local")
                for system in ("Posix", "Windows")
            ),
        ],
        _Record,
    ),
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): dict,
}


_OPERATIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD"),
    *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS"),
}
"""Of pickle's, those that make such records."""


class _MetadataReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        dtype = getattr(torch, name, None) if module == "torch" else None
        if known is None and isinstance(dtype, torch.dtype):
            return dtype
        if known is None:
            raise _ForeignError(f"{module}.{name}")
        return known


class _ForeignError(Exception):
    pass


def distributed_content(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the mapping that was saved, its tensors whole.

    An entry that is no tensor and cannot be read safely is left out where no usual name leads to
    it: the state of a data loader, say.

    Args:
        name: Of the folder.
        files: Name of each file in it -> its bytes.

    Raises:
        InputError: If the files cannot be read safely, are damaged, or do not hold every tensor
            whole.
    """
    metadata = _metadata(f"{name}/{METADATA}", files[METADATA])
    content: dict[Any, Any] = {}
    size = sum(map(len, files.values()))
    try:
        places: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        for index, place in metadata["storage_data"].items():
            places[index.state["fqn"]].append((index.state.get("offset"), place.state))
        present = (
            one for own in places.values() for _, one in own if one["relative_path"] in files
        )
        if sum(one["length"] for one in present) > size:
            raise ValueError("two entries lie in one place")
        paths = metadata.get("planner_data") or {}
        for key, entry in metadata["state_dict_metadata"].items():
            called = shorten(f"{name}: {key}", limit=200)
            path = tuple(paths.get(key, (key,)))
            shape = entry.state.get("size") if isinstance(entry.state, Mapping) else None
            try:
                parts = [(offset, _loaded(called, place, files)) for offset, place in places[key]]
            except InputError:
                if shape is None and _NAMED.isdisjoint(path):
                    continue
                raise
            value = parts[0][1] if shape is None else _whole(called, shape, parts)
            inside = content
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            inside[path[-1]] = value
        listed = _listed(content)
    except InputError:
        raise
    # Of a damaged description anything may follow.
    except Exception as error:
        raise InputError(
            f"{name}/{METADATA} is not what torch.distributed.checkpoint writes "
            f"({shorten(repr(error))}). Copy the folder again, or save the checkpoint again with "
            "torch.distributed.checkpoint."
        ) from error
    return listed if isinstance(listed, dict) else {}


def _metadata(name: str, data: bytes) -> Mapping[str, Any]:
    try:
        for operation, argument, _ in pickletools.genops(data):
            # A place far out in the unpickler's memo would take memory up to there.
            is_far = operation.name == "LONG_BINPUT" and int(argument or 0) > len(data)
            if operation.name not in _OPERATIONS or is_far:
                raise ValueError(operation.name)
        refuse_unfolding(name, data, len(data))
        state: Mapping[str, Any] = _MetadataReader(io.BytesIO(data)).load().state
        refuse_unfolded(name, state, len(data))
        return state
    except InputError:
        raise
    except _ForeignError as error:
        raise InputError(
            f"{name} holds pickled Python objects ({error}) besides torch's descriptions of "
            "tensors; it was refused, nothing in it was executed. Save the checkpoint with "
            "torch.distributed.checkpoint.save and its own FileSystemWriter and planner."
        ) from None
    # Whatever else a broken pickle does: its operations raise any of a dozen errors.
    except Exception as error:
        raise InputError(
            f"{name} cannot be read: it is damaged or cut short ({len(data):,} bytes). Copy the "
            "folder again."
        ) from error


def _loaded(name: str, place: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
    """Return what lies at a place of a `.distcp` file."""
    file, offset, length = (place[key] for key in ("relative_path", "offset", "length"))
    if place.get("transform_descriptors"):
        raise InputError(
            f"{name} was compressed ({', '.join(map(str, place['transform_descriptors']))}), which "
            "is not supported. Save the checkpoint without extensions of the storage writer."
        )
    data = files.get(file, b"")[offset : offset + length]
    if offset < 0 or length <= 0 or len(data) < length:
        raise InputError(
            f"{name} should lie in {file}, bytes {offset:,} to {offset + length:,}, and does not: "
            "the file is missing, cut short, or of another checkpoint. Copy the files of every "
            "process into the one folder."
        )
    return load_torch(f"{name} in {file}", data)


def _whole(name: str, size: Sequence[int], parts: Sequence[tuple[Any, Any]]) -> Tensor:
    """Return a tensor of its chunks, each with its offsets."""
    dtypes = {part.dtype for _, part in parts}
    if sum(part.numel() for _, part in parts) != torch.Size(size).numel() or len(dtypes) != 1:
        raise _incomplete(name)
    whole = torch.empty(size, dtype=dtypes.pop())
    covered = torch.zeros(size, dtype=torch.bool)
    for offset, part in parts:
        starts = offset or (0,) * part.dim()
        region = tuple(slice(at, at + n) for at, n in zip(starts, part.shape, strict=True))
        if whole[region].shape != part.shape:
            raise _incomplete(name)
        whole[region] = part
        covered[region] = True
    if not bool(covered.all()):
        raise _incomplete(name)
    return whole


def _incomplete(name: str) -> InputError:
    return InputError(
        f"{name}: the chunks in the .distcp files do not make up the tensor that {METADATA} "
        "describes: files of two checkpoints are mixed. Copy the folder again."
    )


def _listed(content: Any) -> Any:
    """Turn mappings from 0, 1, … into the lists that they were."""
    if not isinstance(content, dict):
        return content
    values = {key: _listed(value) for key, value in content.items()}
    if all(isinstance(key, int) for key in values) and values:
        return [values[number] for number in range(len(values))]
    return values
