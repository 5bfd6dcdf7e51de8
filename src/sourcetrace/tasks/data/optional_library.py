"""Libraries that an adapter needs and the audit does not."""

from importlib import import_module
from typing import Any

from sourcetrace.errors import InputError


def optional_library(name: str, purpose: str) -> Any:
    """Return a module.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the library {name}: pip install {name.split('.', maxsplit=1)[0]}"
        ) from error
