"""The attribution methods: a file here with a `METHOD` is one more of them."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from sourcetrace.core.plan.filters import FilterSettings, SegmentFilter
from sourcetrace.core.plan.method import Method
from sourcetrace.core.training.optimizer_settings import OptimizerName

METHODS: Mapping[str, Method] = {
    found.name: import_module(f"{__name__}.{found.name}").METHOD for found in iter_modules(__path__)
}
"""By name, which is that of the file."""


def segment_filter(
    method: str,
    *,
    step_mass: float,
    weight_decay: float,
    damping: float | None = None,
    optimizer: OptimizerName = "SGD",
) -> SegmentFilter:
    """Return a method's filter of one segment; arguments as of `FilterSettings`."""
    settings = FilterSettings(step_mass, weight_decay, optimizer, damping)
    return METHODS[method].make_filter(settings)
