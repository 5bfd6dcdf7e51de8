"""Metrics as kedro-mlflow's data sets take them."""

from collections.abc import Mapping
from typing import Any


def logged(values: Mapping[Any, float | None], *, step: int = 0) -> dict[str, Any]:
    """Return name -> value and step; what has no value is left out."""
    return {
        name: {"value": float(value), "step": step}
        for name, value in values.items()
        if value is not None
    }
