"""The task tried on a few examples; each refusal says what to change."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.gradients.check import check_gradients
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.rehearsal import refuse_compiled
from sourcetrace.core.model.dropout import dropout_mask
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.objective import ExampleGenerator, sampled_loss
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError
from sourcetrace.pipelines.shared.set_up import coverage_of
from sourcetrace.tasks import Task


def try_losses(
    task: Task,
    checkpoint: Checkpoint,
    training: Examples,
    queries: Examples,
    *,
    device: torch.device,
    segments: Sequence[Segment],
    dropout_masks: int,
) -> Coverage:
    """Run two examples of each side through the model and every loss; return the coverage."""
    model = task.build_model().to(device)
    refuse_compiled(model.named_modules())  # before a forward pass would compile it
    model.load_state_dict(dict(checkpoint.state_dict))
    model.eval()
    # The training examples last: theirs are the gradients that are checked.
    for examples in (queries, training):
        index = range(min(2, len(examples)))
        batch = examples.batch(index, device)
        generator = ExampleGenerator.for_examples(examples.seeds(index, seed=0, purpose="check"))
        mask = dropout_mask(model, min(dropout_masks, 1), seed=0, examples=len(index))
        with torch.no_grad(), mask:
            outputs = _call("forward", task.forward, model, batch)
        for name, function, arguments in (
            ("train_loss", task.train_loss, (outputs, batch)),
            ("sampled_loss", sampled_loss, (task, outputs, generator, batch)),
            ("measurement", task.measurement, (outputs, batch)),
        ):
            with torch.no_grad():
                loss = _call(name, function, *arguments)
            per_example_loss(loss, name=name, examples=len(index))
            if not bool(loss.isfinite().all()):
                raise InputError(
                    f"{name} is NaN or infinite for the first examples at {checkpoint.file}. "
                    "Check the data for missing values and the loss for log(0)."
                )
    coverage = coverage_of(task, model, training, device, segments)
    batch = training.batch(index, device)  # anew: the task may have taken the other apart
    check_gradients(
        model,
        coverage,
        lambda: task.forward(model, batch),
        lambda outputs: task.train_loss(outputs, batch),
        examples=len(index),
    )
    return coverage


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a part of the task; say where in the user's code it failed."""
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"task.{name} failed on the first examples: {type(error).__name__}: {error} "
            f"({at.filename}, line {at.lineno}). A usual cause: inputs of another dtype than the "
            "model's weights, or a batch that is not (inputs, targets)."
        ) from error
