"""The task tried on a few examples; each refusal says what to change."""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from sourcetrace.checkpoints.folder import Checkpoint
from sourcetrace.core.gradients.capture import per_example_loss
from sourcetrace.core.gradients.check import check_gradients
from sourcetrace.core.layers.discovery import Coverage
from sourcetrace.core.layers.rehearsal import refuse_compiled
from sourcetrace.core.model.curvature_check import sampled_loss_share
from sourcetrace.core.model.dropout import dropout_mask
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.core.training.segments import Segment
from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.independence import call, refuse_coupled
from sourcetrace.pipelines.shared.set_up import coverage_of
from sourcetrace.tasks import Task

logger = logging.getLogger(__name__)

_DRAWS = 128
_FAR_OFF = 1.6
"""A mean over two tokens is off by 2; that many draws of two logits are within 1.3."""


def try_losses(
    task: Task,
    checkpoint: Checkpoint,
    training: Examples,
    queries: Examples,
    *,
    device: torch.device,
    segments: Sequence[Segment],
    dropout_masks: int,
    bare: int,
) -> Coverage:
    """Run a few examples of each side through the model and every loss; return the coverage."""
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
                    f"{name} is NaN or infinite for the first examples at {checkpoint.file}. "
                    "Check the data for missing values and the loss for log(0)."
                )
    coverage = coverage_of(task, model, training, device, segments, bare=bare)
    batch = training.batch(index, device)  # anew: the task may have taken the other apart

    def alone(place: int) -> torch.Tensor:
        one = training.batch([place], device)
        return task.train_loss(task.forward(model, one), one)

    check_gradients(
        model,
        coverage,
        lambda: task.forward(model, batch),
        lambda outputs: task.train_loss(outputs, batch),
        examples=len(index),
        alone=alone,
    )
    for examples, differentiated in ((queries, "measurement"), (training, "train_loss")):
        refuse_coupled(
            task,
            model,
            examples,
            differentiated=differentiated,
            device=device,
            mask=min(dropout_masks, 1),
        )
    _compare_curvatures(task, model, training, device)
    return coverage


def _compare_curvatures(
    task: Task, model: nn.Module, training: Examples, device: torch.device
) -> None:
    """Warn if the sampled loss gives another curvature than the training loss has."""
    index = range(min(2, len(training)))
    batch = training.batch(index, device)
    generators = (
        ExampleGenerator.for_examples(training.seeds(index, seed=draw, purpose="check"))
        for draw in range(_DRAWS)
    )
    share = sampled_loss_share(task, task.forward(model, batch), batch, generators)
    if share is not None and not 1 / _FAR_OFF < share < _FAR_OFF:
        logger.warning(
            "sampled_loss gives %.3g times the curvature of train_loss (traces at outputs of 0, "
            "first examples); expected 1. Where train_loss is a mean or a weighted sum over an "
            "example's tokens or labels, multiply each one's random gradient by the root of its "
            "weight (docs/losses.md has it worked out). A loss that is no negative log "
            "likelihood may differ rightly.",
            share,
        )
