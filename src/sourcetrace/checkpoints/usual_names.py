"""The names under which trainings save weights, optimiser, step and scheduler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sourcetrace.checkpoints.nested import is_within
from sourcetrace.errors import InputError

USUAL_NAMES = {
    "model_state_dict": ("model_state_dict", "state_dict", "model", "model_state", "net"),
    "optimizer_state_dict": (
        "optimizer_state_dict",
        "optimizer",
        "optim",
        "optimizer_state",
        "optim_state_dict",
        "opt",
        "optimizer_states",
    ),
    "step": ("step", "global_step", "iteration", "num_steps"),
    "lr_scheduler_state_dict": (
        "lr_scheduler_state_dict",
        "scheduler_state_dict",
        "lr_scheduler",
        "scheduler",
        "lr_schedulers",
        "schedulers",
    ),
}
"""What a checkpoint holds, by our name -> the keys under which trainings save it.

Lightning writes lists, under `optimizer_states` and `lr_schedulers`.
"""

_NOTHING = object()


def under_our_names(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's mapping, with what it holds under a usual name under ours.

    Raises:
        InputError: If several usual names hold different things, or there are several optimisers.
    """
    found = {ours: _held(name, content, ours) for ours in USUAL_NAMES}
    ours = {key: one for key, one in found.items() if one is not _NOTHING}
    if "optimizer_state_dict" in ours:
        ours["optimizer_state_dict"] = _numbered(ours["optimizer_state_dict"])
    usual = {key for keys in USUAL_NAMES.values() for key in keys} - {"optimizer"}
    return {key: one for key, one in content.items() if key not in usual} | ours


def _held(name: str, content: Mapping[str, Any], ours: str) -> Any:
    """Return what a checkpoint holds under one of the usual keys, or `_NOTHING`.

    Raises:
        InputError: If several keys hold different things.
    """
    held = {key: content[key] for key in USUAL_NAMES[ours] if key in content}
    for key, value in held.items():
        if ours == "optimizer_state_dict" and isinstance(value, list) and len(value) > 1:
            raise InputError(
                f"{name} holds {len(value)} optimisers under {key}; expected one. A training by "
                "several is not supported: let one optimiser with parameter groups do it."
            )
    alone = {
        key: one[0] if isinstance(one, list) and len(one) == 1 else one for key, one in held.items()
    }
    # A text under `model` or `optimizer` is a name.
    held = {
        key: one
        for key, one in alone.items()
        if ours == key or not (one is None or isinstance(one, str))
    }
    if not held:
        return _NOTHING
    first, *others = held
    others = [key for key in others if not _same(held[key], held[first])]
    if others:
        raise InputError(
            f"{name} holds different things under {first} and {', '.join(others)}: which of them "
            f"is its {ours} cannot be known. Rename or remove what is not."
        )
    return held[first]


def _same(one: Any, other: Any) -> bool:
    return is_within(one, other, _same_value) and is_within(other, one, _same_value)


def _same_value(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        is_dense = one.layout == other.layout == torch.strided
        return is_dense and one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _numbered(state: Any) -> Any:
    """Number the parameters of an optimiser's state that names them.

    torch.distributed.checkpoint.state_dict.get_state_dict writes it so.
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    groups = groups if isinstance(groups, list) else []
    listed = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    names = [name for own in listed if isinstance(own, list) for name in own]
    if not names or None in listed or not all(isinstance(name, str) for name in names):
        return state
    place = {name: number for number, name in enumerate(names)}
    return {
        "state": {
            place[name]: entry for name, entry in state.get("state", {}).items() if name in place
        },
        "param_groups": [
            {**group, "params": [place[n] for n in group["params"]], "param_names": group["params"]}
            for group in groups
        ],
    }
