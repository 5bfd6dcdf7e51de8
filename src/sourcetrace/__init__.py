"""Sourcetrace: which training examples made a PyTorch model behave as it does."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # When it is asked for: every module of the package comes through here, and it needs polars.
    if name == "open_audit":
        return import_module("sourcetrace.opened").open_audit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
