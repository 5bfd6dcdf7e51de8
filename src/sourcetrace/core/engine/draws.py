"""How many sampled labels an example has in the curvature.

One, where there are many examples: their mean is near the expectation. Over few it is not: scores
of 60 examples in four classes with two seeds had a rank correlation of 0.82. As many draws of
`signs` as an example has outputs are the expectation itself, and the seed changes nothing.
"""

from typing import Literal

import torch

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.model.examples import Examples, spread
from sourcetrace.core.model.objective import ExampleGenerator, sampled_loss
from sourcetrace.errors import InputError

_DRAWS = 4096
"""Of all examples together at a point: each is a backward pass in extraction and one in fitting."""

_TRIED = 8
"""Examples whose numbers of signs are compared."""


def choose_draws(
    engine: GradientEngine,
    wanted: int | Literal["auto"] = "auto",
    *,
    few: Examples | None = None,
) -> int:
    """Return how many an example has: as many as are wanted, and no more than are exact.

    `auto` takes those that make the expectation exact, a power of two, or 1 where these are too
    many. 1 as well where examples differ in their signs, as sequences do: how many a batch has
    depends then on its padding, of which scores must not.

    Args:
        engine: Of the audit.
        wanted: How many.
        few: Training examples that are tried; all, if not given.

    Raises:
        InputError: If several are wanted where examples differ.
    """
    count, few = len(engine.training), few or engine.training
    tried = spread(torch.arange(len(few)), _TRIED).tolist()
    (signs, *others) = {_signs(engine, few, index) for index in tried}
    if others:
        if wanted in ("auto", 1):
            return 1
        raise InputError(
            f"attribution.sampled_labels is {wanted}, but examples differ in how many outputs they "
            "have, as sequences do: only the first sampled label of such examples is the same in "
            "every batch. Leave it at auto."
        )
    exact = 1 << max(signs - 1, 0).bit_length()
    if wanted == "auto":
        return exact if exact * count <= _DRAWS else 1
    return min(wanted, exact) if signs else wanted  # a task of its own may draw without signs


def _signs(engine: GradientEngine, few: Examples, index: int) -> int:
    """Return how many signs `sampled_loss` draws for an example."""
    batch = few.batch([index], engine.device)
    generator = ExampleGenerator.for_examples([index])
    with torch.no_grad():
        outputs = engine.objective.forward(engine.model, batch)
        sampled_loss(engine.objective, outputs, generator, batch)
    return generator.columns
