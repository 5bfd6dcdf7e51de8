"""What Adam divided each gradient by, √v̂ + ε, from the optimiser's state."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcetrace.checkpoints.optimizer_state import parameter_groups
from sourcetrace.checkpoints.sidecar import load_sidecar, stored_second_moments
from sourcetrace.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def denominators_of_state(
    file: Path, state: Mapping[str, Any], names: Mapping[int, tuple[str, ...]]
) -> "dict[str, Tensor]":
    """Return parameter -> √v̂ + ε, infinite where no gradient ever came.

    Args:
        file: The checkpoint, for errors.
        state: `optimizer.state_dict()` of Adam or AdamW.
        names: Place in the state -> the parameter's names.

    Raises:
        InputError: If the second moments are missing or not finite.
    """
    found = {}
    for group in parameter_groups(file, state):
        for place in group["params"]:
            entry = (state.get("state") or {}).get(place)
            if place not in names or entry is None:
                continue
            key = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
            if key not in entry or "step" not in entry:
                raise InputError(
                    f"{file.name}: the optimiser state of {names[place][0]} lacks {key} or step. "
                    "Save optimizer.state_dict() as it is."
                )
            denominator = _denominator(
                f"{file.name}: {names[place][0]}",
                entry[key],
                steps=float(entry["step"]),
                beta=float(group["betas"][1]),
                eps=float(group["eps"]),
            )
            found.update(dict.fromkeys(names[place], denominator))
    return found


def denominators_of_sidecar(
    file: Path, names: Mapping[int, tuple[str, ...]]
) -> "dict[str, Tensor]":
    """Return the same from the files beside a `.safetensors` file."""
    sidecar = load_sidecar(file)
    aliases = {name: together for together in names.values() for name in together}
    found = {}
    for name, moment in (stored_second_moments(file) if sidecar.step else {}).items():
        denominator = _denominator(
            f"{file.name}: {name}",
            moment,
            steps=float(sidecar.optimizer_step or sidecar.step),
            beta=sidecar.beta2,
            eps=sidecar.eps,
        )
        found.update(dict.fromkeys(aliases.get(name, (name,)), denominator))
    return found


def _denominator(name: str, moment: "Tensor", *, steps: float, beta: float, eps: float) -> "Tensor":
    moment = moment.float() if moment.element_size() < 4 else moment  # noqa: PLR2004
    if not bool((moment.isfinite() & (moment >= 0)).all()):
        raise InputError(
            f"{name}: Adam's second moments are negative or not finite: training had diverged. "
            "Remove this checkpoint and the ones after it."
        )
    corrected: Tensor = moment / (1 - beta**steps)
    return (corrected.sqrt() + eps).masked_fill(moment == 0, float("inf"))
