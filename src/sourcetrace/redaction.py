"""What must not leave the machine: arguments, options, passwords, addresses that hold one."""

import re
from collections.abc import Mapping
from typing import Any

from sourcetrace.formats import shorten

HIDDEN = "***"

_SECRET_NAME = re.compile("password|passwd|secret|token(?!iz)|credential|api_?key", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
# Of an audit under a namespace, too.
_ARGUMENTS = re.compile(r"(^|\.)(task\.arguments|checkpoints\.storage_options)(\.|$)")


def hide_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters, their names as they are and secret values hidden."""
    return {
        key: hide_values(value, f"{prefix}{key}.")
        if isinstance(value, Mapping) and value
        else _hidden(f"{prefix}{key}", value)
        for key, value in values.items()
    }


def _hidden(name: str, value: Any) -> Any:
    """Return a parameter's value, or `HIDDEN` where its name or an address in it says secret.

    Args:
        name: Dotted, `attribution.method`; everything under a `task.arguments` or a
            `checkpoints.storage_options` is hidden.
        value: Any value.
    """
    secret = _ARGUMENTS.search(name) or _SECRET_NAME.search(name.rsplit(".", 1)[-1])
    if secret or _CREDENTIALS.search(str(value)):
        return HIDDEN
    return value


def hide_credentials(text: str) -> str:
    """Return text without users and passwords in its addresses."""
    return _CREDENTIALS.sub(f"://{HIDDEN}@", text)


def error_line(error: BaseException, *, limit: int = 300) -> str:
    """Return what went wrong, in a line without users and passwords."""
    line = hide_credentials(str(error).strip().split("\n", 1)[0])
    return shorten(f"{type(error).__name__}: {line}", limit=limit)
