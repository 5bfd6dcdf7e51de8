"""The model as the task builds it, before any weights."""

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from sourcetrace.errors import InputError
from sourcetrace.formats import format_names
from sourcetrace.tasks import Task
from sourcetrace.tasks.calls import call


def build_model(task: Task) -> nn.Module:
    """Return the task's model.

    Raises:
        InputError: If it is none, or none that an audit can look into.
    """
    model = call(task, "build_model")
    if not isinstance(model, nn.Module):
        raise InputError(
            f"build_model() returned {type(model).__name__}; expected a torch.nn.Module. Return "
            "the model alone, as it was built before training."
        )
    if scripted := [name for name, one in model.named_modules() if isinstance(one, ScriptModule)]:
        raise InputError(
            f"{scripted[0] or 'The model'} is a module of TorchScript, which hides the layers "
            "inside. Return the plain module from build_model(), without torch.jit.script or "
            "torch.jit.trace; its state_dict() is the same."
        )
    # With buffers: lazy normalisations have some.
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, one in tensors if is_lazy(one)]:
        raise InputError(
            f"The model has lazy modules, whose sizes only a forward pass says "
            f"({format_names(lazy)}). Run one in build_model() before you return it, as in "
            "model(torch.zeros(1, 8)), or give the sizes: nn.Linear(8, 16) for nn.LazyLinear(16)."
        )
    if meta := [name for name, one in tensors if one.is_meta]:
        raise InputError(
            f"The model has parameters without values, on the device 'meta' "
            f"({format_names(meta)}). Build it on a device that holds them: weights are copied "
            "into it."
        )
    return model
