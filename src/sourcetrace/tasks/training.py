"""A plain SGD loop, for tasks whose `train` needs no more, and for the demo's own training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.tasks.protocol import Task


@dataclass(frozen=True)
class SGDRecipe:
    """How a model is trained with `torch.optim.SGD`.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Examples a step; the last incomplete batch of an epoch is dropped.
        learning_rate: Constant over the training.
        momentum: Heavy-ball β.
        weight_decay: Coupled weight decay.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0


def train_with_sgd(
    task: Task,
    indices: Sequence[int],
    recipe: SGDRecipe,
    *,
    seed: int,
    after_step: Callable[[int, nn.Module, torch.optim.Optimizer], None] | None = None,
) -> nn.Module:
    """Train the task's model on some of its training examples, on the CPU.

    Args:
        task: Builds the model and gives the loss, whose batch mean is minimised.
        indices: Numbers of the training examples.
        recipe: Epochs, batch size and optimiser.
        seed: Of the initial weights, the order of batches and anything random in the model.
        after_step: Called with the number of steps so far, the model and the optimiser.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        InputError: If there are fewer examples than a batch holds.
    """
    if len(indices) < recipe.batch_size:
        raise InputError(
            f"train() got {len(indices)} examples for batches of {recipe.batch_size}, so no step "
            "would be made. Lower the batch size or raise verification.fraction."
        )
    items = task.train_examples()
    # Its own generator: the order of batches is the same whatever the model draws.
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build_model().train()
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        step = 0
        for _ in range(recipe.epochs):
            order = torch.randperm(len(indices), generator=generator).tolist()
            for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
                chosen = order[start : start + recipe.batch_size]
                batch = task.collate([items[indices[place]] for place in chosen])
                optimizer.zero_grad()
                loss = task.train_loss(task.forward(model, batch), batch).mean()
                torch.autograd.backward(loss)
                optimizer.step()
                step += 1
                if after_step is not None:
                    after_step(step, model, optimizer)
    return model.eval()
