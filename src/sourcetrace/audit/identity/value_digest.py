"""A digest of any value that an example may hold: with its type and length."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np

_LENGTH: Final = 32
"""Hexadecimal digits of a short one."""


class NoContentError(Exception):
    """An example's content cannot be digested; the message says why."""


def value_digest(value: Any) -> bytes:
    """Return the SHA-256 of an example, or of a part of one.

    Raises:
        NoContentError: If it holds what has no bytes that are known.
    """
    content = hashlib.sha256()
    feed(content, value)
    return content.digest()


def short_digest(value: Any) -> str:
    """Return its beginning, in hexadecimal."""
    return value_digest(value).hex()[:_LENGTH]


def feed(content: "hashlib._Hash", value: Any) -> None:
    """Add a value with its type and length, so that no two values read alike."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):  # the usual cases, first
        feed_bytes(content, "sequence", str(len(value)).encode())
        for part in value:
            feed(content, part)
    elif _is_tensor(value):
        feed_bytes(content, *_array_bytes(value))
    elif value is None or isinstance(value, bool | int | float | complex | str):
        feed_bytes(content, type(value).__name__, repr(value).encode())
    elif isinstance(value, bytes | bytearray):
        feed_bytes(content, "bytes", bytes(value))
    elif isinstance(value, Mapping):
        feed_bytes(content, "mapping", str(len(value)).encode())
        for key in sorted(value, key=repr):
            feed(content, key)
            feed(content, value[key])
    elif is_dataclass(value) and not isinstance(value, type):
        feed(content, {field.name: getattr(value, field.name) for field in fields(value)})
    else:
        feed_bytes(content, *_array_bytes(value))


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch" and hasattr(value, "untyped_storage")


def _array_bytes(value: Any) -> tuple[str, bytes]:
    """Return dtype and shape, and the values' bytes, of a tensor, an array or a picture."""
    if _is_tensor(value):
        kind = f"array {str(value.dtype).split('.')[-1]} {tuple(value.shape)}"
        try:
            return kind, value.numpy().tobytes()
        except (TypeError, RuntimeError):  # of a type or on a device that NumPy does not have
            pass
        torch = sys.modules["torch"]  # it is there, and a report from tables must not import it
        if value.layout == torch.strided and not value.is_quantized:
            dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            raw = dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""
            return kind, raw
    elif type(value).__module__.split(".")[0] == "PIL":
        return f"picture {value.mode} {value.size}", value.tobytes()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"array {value.dtype.name} {value.shape}", np.ascontiguousarray(value).tobytes()
    raise NoContentError(f"an example holds a {type(value).__module__}.{type(value).__qualname__}")


def feed_bytes(content: "hashlib._Hash", kind: str, raw: bytes) -> None:
    """Add bytes with what they are and how many there are."""
    content.update(f"{kind}\0{len(raw)}\0".encode())
    content.update(raw)
