"""The task tried on a few examples; each refusal says what to change."""

import logging
from typing import Any

import torch
from torch import nn

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.gradients.alone import Single
from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.gradients.check import check_gradients
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.rehearsal import refuse_compiled
from sourcetrace.core.model.curvature_check import sampled_loss_share
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.labels import refuse_other_count
from sourcetrace.pipelines.checkpoint_ingest.model import build_model
from sourcetrace.tasks import Task
from sourcetrace.tasks.calls import call

logger = logging.getLogger(__name__)

_DRAWS = 128
_FAR_OFF = 1.6
"""A mean over two tokens is off by 2; that many draws of two logits are within 1.3."""


def model_at(task: Task, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """Return the task's model with a checkpoint's weights, in evaluation mode."""
    model = build_model(task).to(device)
    refuse_compiled(model.named_modules())  # before a forward pass would compile it
    model.load_state_dict(dict(checkpoint.state_dict))
    return model.eval()


def try_losses(task: Task, model: nn.Module, examples: Examples, *, file: str) -> Any:
    """Run the first examples of a side through the model and every loss.

    Args:
        task: The task.
        model: The model, in evaluation mode.
        examples: Of one side.
        file: The checkpoint's.

    Returns:
        The outputs.

    Raises:
        InputError: If something fails, a loss is not one finite value an example, or
            `label_names` are not as many as the outputs.
    """
    index = range(min(2, len(examples)))
    batch = examples.batch(index, next(model.parameters()).device)
    generator = ExampleGenerator.for_examples(examples.seeds(index, seed=0, purpose="check"))
    with torch.no_grad():
        outputs = call(task, "forward", "the first examples", model, batch)
    for name, given in (
        ("train_loss", (batch,)),
        ("sampled_loss", (generator, batch)),
        ("measurement", (batch,)),
    ):
        with torch.no_grad():
            loss = call(task, name, "the first examples", outputs, *given)
        per_example_loss(loss, name=name, examples=len(index))
        if not bool(loss.isfinite().all()):
            raise InputError(
                f"{name} is NaN or infinite for the first examples at {file}. "
                "Check the data for missing values and the loss for log(0)."
            )
    refuse_other_count(task, outputs)
    return outputs


def warn_of_low_precision(model: nn.Module) -> torch.dtype:
    """Return the precision of a model's weights; warn of one that rounds the scores."""
    low = [p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    if not low:
        return next(p.dtype for p in model.parameters() if p.is_floating_point())
    logger.warning(
        "The model's weights are %s, and so are its passes and gradients: scores are off by about "
        "1 %% of their size. Return model.float() from build_model(): the checkpoints' weights are "
        "copied into it as they are, and everything is computed in float32",
        str(low[0]).removeprefix("torch."),
    )
    return low[0]


def gradient_error(task: Task, model: nn.Module, training: Examples, coverage: Coverage) -> float:
    """Return how far the first examples' gradients are from autograd's, relative."""
    index, device = range(min(2, len(training))), next(model.parameters()).device
    batch = training.batch(index, device)

    def alone(place: int) -> Single:
        one = training.batch([place], device)
        return (
            lambda: task.forward(model, one),
            lambda outputs: [task.train_loss(outputs, one)],
        )

    return check_gradients(
        model,
        coverage,
        lambda: task.forward(model, batch),
        lambda outputs: task.train_loss(outputs, batch),
        examples=len(index),
        alone=alone,
    )


def is_far_off(share: float) -> bool:
    """Return whether `compare_curvatures` warns of it."""
    return not 1 / _FAR_OFF < share < _FAR_OFF


def compare_curvatures(task: Task, model: nn.Module, training: Examples) -> float | None:
    """Return the sampled loss's curvature over the training loss's; warn if it is another.

    None where the training loss has none.
    """
    index = range(min(2, len(training)))
    batch = training.batch(index, next(model.parameters()).device)
    generators = (
        ExampleGenerator.for_examples(training.seeds(index, seed=draw, purpose="check"))
        for draw in range(_DRAWS)
    )
    share = sampled_loss_share(task, task.forward(model, batch), batch, generators)
    if share is not None and is_far_off(share):
        logger.warning(
            "sampled_loss gives %.3g times the curvature of train_loss (traces at outputs of 0, "
            "first examples); expected 1. Where train_loss is a mean or a weighted sum over an "
            "example's tokens or labels, multiply each one's random gradient by the root of its "
            "weight (docs/reference/losses.md has it worked out). A loss that is no negative log "
            "likelihood may differ rightly.",
            share,
        )
    return share
