"""What `torch.save` and safetensors wrote, read without executing anything in it."""

import io
import json
import pickle
import re
import warnings
from pathlib import Path
from tarfile import is_tarfile
from typing import Any, TypeVar
from zipfile import ZIP_STORED, ZipFile

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sourcetrace.checkpoints.formats.pickles import refuse_unfolded, refuse_unfolding
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.validation import validated

_Model = TypeVar("_Model", bound=BaseModel)

_ZIP = b"PK\3\4"
_PICKLE = "data.pkl"

_MOST_JSON = 2**26
"""Bytes of a JSON file that is read."""


def load_torch(name: str, data: bytes) -> Any:
    """Return what `torch.save` wrote, of tensors and plain values alone.

    Raises:
        InputError: If there is anything else in it, or it is damaged.
    """
    try:
        pickled = _examine(name, data)
        with warnings.catch_warnings():
            # torch warns of foreign pickles before it refuses them; the refusal is ours.
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        refuse_unfolded(name, content, pickled)
        return content
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{name} holds pickled Python objects{f' ({kind[1]})' if kind else ''} besides "
            "tensors, numbers and text; it was refused, nothing in it was executed. Save "
            "model_state_dict, optimizer_state_dict and step alone, not a whole model, and step "
            "as a plain int, not a numpy number."
        ) from error
    except InputError:
        raise
    # Of a damaged pickle torch's unpickler raises what its instructions happen to raise.
    except Exception as error:
        raise _unreadable(name, data) from error


def _examine(name: str, data: bytes) -> int:
    """Refuse what torch cannot read safely, or would read wrongly; return the pickles' size."""
    if not data.startswith(_ZIP):  # of an older torch: magic number, version, system, content
        stream = io.BytesIO(data)
        for _ in range(0 if is_tarfile(io.BytesIO(data)) else 4):
            refuse_unfolding(name, stream, len(data))
        return len(data)
    archive = ZipFile(io.BytesIO(data))
    members = archive.infolist()
    if any("/code/__torch__" in one.filename for one in members):
        raise InputError(
            f"{name} is a TorchScript archive: a program, with weights in it. Save the model's "
            f"state_dict with torch.save, from the training or once from torch.jit.load({name!r})."
            "state_dict()."
        )
    packed = [one.filename for one in members if one.compress_type != ZIP_STORED]
    if packed:
        raise InputError(
            f"{name} is compressed ({format_names(packed)}), which torch.save never does; it was "
            "not unpacked. Unpack it, and pack it again without compression (zip -0 -r)."
        )
    if sum(one.file_size for one in members) > len(data):
        raise _unreadable(name, data)
    # torch does not compare the checksums that it writes: a flipped bit would be a weight.
    damaged = archive.testzip()
    if damaged:
        raise InputError(
            f"{name} is damaged: {damaged} in it has another checksum than when it was "
            "saved. Copy it again, or remove it from the folder. Where torch was told to "
            "save none (torch.serialization.set_crc32_options(False)), save it with them."
        )
    pickles = [archive.read(one) for one in members if one.filename.lower().endswith(_PICKLE)]
    for one in pickles:
        refuse_unfolding(name, one, len(one))
    return sum(map(len, pickles))


def _unreadable(name: str, data: bytes) -> InputError:
    if is_tarfile(io.BytesIO(data)):
        return InputError(
            f"{name} is an archive (.tar), which torch cannot read without executing what is in "
            "it. Unpack it; one of a torch before 1.6, load and save again."
        )
    return InputError(
        f"{name} cannot be read as a checkpoint of torch.save: it is damaged or "
        f"cut short ({len(data):,} bytes). Copy it again, or remove it from the folder."
    )


def tensors_of(name: str, data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Raises:
        InputError: If it is damaged.
    """
    try:
        return load(data)
    except SafetensorError as error:
        raise InputError(
            f"{name} cannot be read as safetensors: it is damaged or cut short "
            f"({len(data):,} bytes). Copy it again."
        ) from error


def read_json(model: type[_Model], name: str, data: bytes, *, before: str) -> _Model:
    """Return a JSON file's content as its model.

    Args:
        model: What is expected.
        name: Of the file, for errors.
        data: Its bytes.
        before: What the error says first where the content is something else.

    Raises:
        InputError: If it is no JSON, or something else.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} cannot be read as JSON: {error}. Correct it, or copy it again."
        ) from error
    return validated(model, content, before=before)


def small(file: Path) -> Path:
    """Return a JSON file.

    Raises:
        InputError: If it is too long to be one.
    """
    if file.stat().st_size > _MOST_JSON:
        raise InputError(
            f"{file.parent.name}/{file.name} has {file.stat().st_size:,} bytes; expected at most "
            f"{_MOST_JSON:,}. It is not what it is called; copy it again."
        )
    return file
