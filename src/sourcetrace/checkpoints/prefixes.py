"""What wrappers of a model put before its parameters' names, and into them."""

import re
from collections.abc import Collection, Sequence

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Of torch.compile, FSDP and recomputed activations."""


def without_prefix(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Take off what all names begin with, where more of them are known without it.

    DataParallel puts `module.` before every name, torch.compile `_orig_mod.`, a Lightning module
    the attribute that holds the model. The shortest prefix that will do is taken: none, where the
    model's own names begin so. What torch's wrappers of parts of a model put into a name is taken
    out, where the model has no such name. Where one prefix alone is before each of the known names,
    names that lie beside it stay as they are.
    """
    unwrapped, prefix = _prefix(names, known)
    return [name.removeprefix(prefix) for name in unwrapped]


def beside_prefix(names: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the names, of these, that lie beside the prefix that `without_prefix` takes off."""
    unwrapped, prefix = _prefix(names, known)
    return [name for name, own in zip(names, unwrapped, strict=True) if not own.startswith(prefix)]


def _prefix(names: Sequence[str], known: Collection[str]) -> tuple[list[str], str]:
    names = [name if name in known else _WRAPPERS.sub("", name) for name in names]
    parts = names[0].split(".")[:-1] if names else []
    prefixes = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]
    shared = [one for one in prefixes if all(name.startswith(one) for name in names)]
    best = max(shared, key=lambda one: sum(name.removeprefix(one) in known for name in names))
    found = {name.removeprefix(best) for name in names}
    if not known or any(name in found for name in known):
        return names, best
    one = next(iter(known))
    every = [name.removesuffix(one) for name in names if name.endswith(f".{one}")]
    before = [each for each in every if {f"{each}{name}" for name in known} <= set(names)]
    return names, before[0] if len(before) == 1 else best
