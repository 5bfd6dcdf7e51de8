"""Whether a checkpoint's weights fit the model."""

from collections.abc import Mapping

from torch import Tensor

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names


def check_weights(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of the model.

    Args:
        name: Of the checkpoint.
        state: Its state dict.
        expected: The model's.

    Raises:
        InputError: If names or shapes differ, or a weight is NaN or infinite.
    """
    found = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "other shapes": [
            f"{key} {list(state[key].shape)}, the model has {list(expected[key].shape)}"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
    }
    problems = [f"{problem}: {format_names(keys)}" for problem, keys in found.items() if keys]
    if problems:
        raise InputError(
            f"{name} does not fit the model that the task builds ({'; '.join(problems)}). Let "
            "build_model() return the architecture that was trained, or correct checkpoints.path."
        )
    infinite = [
        key
        for key, value in state.items()
        # By the extremes, of which NaN is one: isfinite() takes twice the weights' memory.
        if value.is_floating_point()
        and value.numel()
        and not all(bool(one.isfinite()) for one in value.aminmax())
    ]
    if infinite:
        raise InputError(
            f"{name} holds NaN or infinite weights ({format_names(infinite)}): training had "
            "diverged. Remove this checkpoint and the ones after it, or train with a lower "
            "learning rate."
        )
