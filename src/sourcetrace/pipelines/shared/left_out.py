"""Parameters of the model that a person leaves out of the attribution, by name."""

from fnmatch import fnmatchcase

from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.parameters import LayerParameters


def left_out_by_name(model: nn.Module, layers: LayerParameters) -> set[str]:
    """Return the parameters that the patterns leave out, all names of each.

    A pattern is a parameter's name or that of a module that holds it. A parameter that modules
    share is left out by any of its names.

    Raises:
        InputError: If a pattern matches no parameter.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    every = [name for group in names.values() for name in group]
    for kind in ("include", "exclude"):
        for pattern in getattr(layers, kind):
            if not any(_matches(name, pattern) for name in every):
                raise InputError(
                    f"attribution.layers.{kind}: {pattern!r} matches none of the model's "
                    f"parameters ({format_names(every)}). Correct the pattern: a parameter's name "
                    "or a module's, in which * stands for anything."
                )

    def any_of(group: list[str], patterns: tuple[str, ...]) -> bool:
        return any(_matches(name, pattern) for name in group for pattern in patterns)

    return {
        name
        for group in names.values()
        if any_of(group, layers.exclude) or not any_of(group, layers.include)
        for name in group
    }


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
