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
        "optimizer_0",
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

Lightning writes lists, under `optimizer_states` and `lr_schedulers`, and `optimizer_0` where the
training was sharded.
"""

_NOTHING = object()


def under_our_names(name: str, content: Any) -> dict[str, Any]:
    """Return what a checkpoint holds, with what it has under a usual name under ours.

    A state dict alone is the model's. A mapping alone in another is what is looked at: the state of
    an application, say.

    Args:
        name: Of the file, for errors.
        content: What was saved.

    Raises:
        InputError: If several usual names hold different things, or there are several optimisers.
    """
    if not isinstance(content, Mapping) or not content:
        return {}
    if _is_state_dict(content):
        return {"model_state_dict": content}
    if not any(key in content for keys in USUAL_NAMES.values() for key in keys):
        (inside, *others) = content.values()
        return under_our_names(name, inside) if not others else dict(content)
    found = {ours: _held(name, content, ours) for ours in USUAL_NAMES}
    ours = {key: one for key, one in found.items() if one is not _NOTHING}
    if "optimizer_state_dict" in ours:
        ours["optimizer_state_dict"] = _numbered(ours["optimizer_state_dict"])
    step = ours.get("step")
    if isinstance(step, Tensor) and step.numel() == 1 and not step.is_floating_point():
        ours["step"] = int(step)
    usual = {key for keys in USUAL_NAMES.values() for key in keys} - {"optimizer"}
    return {key: one for key, one in content.items() if key not in usual} | ours


def weights_of(name: str, content: Any) -> Mapping[str, Tensor]:
    """Return a state dict as it is.

    Raises:
        InputError: If it is something else.
    """
    if not _is_state_dict(content):
        raise InputError(
            f"{name} is not a mapping of names to tensors. Save model.state_dict() as it is."
        )
    weights: Mapping[str, Tensor] = content
    return weights


def _held(name: str, content: Mapping[str, Any], ours: str) -> Any:
    """Return what a checkpoint holds under one of the usual keys, or `_NOTHING`.

    Raises:
        InputError: If several keys hold different things.
    """
    held = {key: content[key] for key in USUAL_NAMES[ours] if key in content}
    if ours == "optimizer_state_dict":
        several = [key for key, one in held.items() if isinstance(one, list) and len(one) > 1]
        several += [key for key in content if key == "optimizer_1"]
        if several:
            raise InputError(
                f"{name} holds several optimisers under {several[0]}; expected one. A training by "
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

    torch.distributed.checkpoint.state_dict.get_state_dict writes it so, and
    torch.distributed.checkpoint itself makes texts of numbers.
    """
    if isinstance(state, Mapping) and state and "param_groups" not in state:
        state = _grouped(state)
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    groups = groups if isinstance(groups, list) else []
    listed = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    names = [name for own in listed if isinstance(own, list) for name in own]
    # torch.distributed.checkpoint leaves out what is empty: the state of SGD without momentum.
    entries = state.get("state", {}) if names else None
    if None in listed or not isinstance(entries, Mapping):
        return state
    place = {
        str(name): name if isinstance(name, int) else number for number, name in enumerate(names)
    }
    numbered = [{**group, "params": [place[str(n)] for n in group["params"]]} for group in groups]
    if all(isinstance(name, str) for name in names):
        numbered = [
            {**group, "param_names": own} for group, own in zip(numbered, listed, strict=True)
        ]
    return {
        "state": {place[str(key)]: one for key, one in entries.items() if str(key) in place},
        "param_groups": numbered,
    }


def _grouped(flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an optimiser's state with its groups, if it is one that was flattened.

    `StateDictOptions(flatten_optimizer_state_dict=True)` has a key for each setting of each
    parameter: parameters with the same settings are a group.
    """
    state: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, Any]] = {}
    kinds = {"state": state, "param_groups": settings}
    for key, value in flat.items():
        kind, _, rest = str(key).partition(".")
        name, _, what = rest.rpartition(".")
        if kind not in kinds or not name:
            return flat
        kinds[kind].setdefault(name, {})[what] = value
    groups: list[tuple[dict[str, Any], list[str]]] = []
    for name, own in settings.items():
        alike = next((names for known, names in groups if _same(own, known)), None)
        if alike is None:
            groups.append((own, [name]))
        else:
            alike.append(name)
    return {"state": state, "param_groups": [{**own, "params": names} for own, names in groups]}


def _is_state_dict(content: Any) -> bool:
    """Return whether it maps names to tensors, and nothing else."""
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(one, Tensor) for key, one in content.items()
    )
