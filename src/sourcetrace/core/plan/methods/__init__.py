"""The attribution methods: a file here with a `METHOD` is one more of them."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from sourcetrace.core.plan.method import Method

METHODS: Mapping[str, Method] = {
    found.name: import_module(f"{__name__}.{found.name}").METHOD for found in iter_modules(__path__)
}
"""By name, which is that of the file."""
