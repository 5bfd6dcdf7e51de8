"""What an optimiser was told about a group of parameters, and the step it takes in the long run.

A gradient that stays the same moves a parameter by a multiple of the learning rate η:

- heavy ball, b ← βb + (1−d)g, θ ← θ − ηb: b settles at (1−d)/(1−β) g, with dampening d;
- Nesterov, θ ← θ − η(g + βb): g + β/(1−β) g = g/(1−β), the same (torch allows it no dampening);
- RMSprop's momentum is the heavy ball of g/(√v + ε): 1/(1−β);
- Adam's average m ← β₁m + (1−β₁)g settles at g itself: the factor is 1, as it is for all that
  average the gradient (NAdam's μ_{t+1}m + (1−μ_t)g too, once μ has settled).

Coupled weight decay is part of g, so all of it is multiplied alike.
"""

from dataclasses import dataclass
from typing import Literal, get_args

OptimizerName = Literal[
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "NAdamW",
    "RAdam",
    "RAdamW",
    "Adamax",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adafactor",
    "Lion",
    "Muon",
]
"""The optimisers whose training can be unrolled; a W at the end: weight decay is decoupled."""

ADAPTIVE: tuple[OptimizerName, ...] = tuple(
    name for name in get_args(OptimizerName) if name != "SGD"
)
"""Those that divide the gradient, entry by entry."""

DECOUPLED: tuple[OptimizerName, ...] = ("AdamW", "NAdamW", "RAdamW", "Adafactor", "Lion", "Muon")
"""Those whose weight decay is no part of the gradient that they divide."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that the optimiser treats alike, at one checkpoint.

    Attributes:
        learning_rate: At this step.
        momentum: β of heavy-ball or Nesterov momentum, 0 ≤ β < 1; 0 for averages, as Adam's.
        dampening: d of SGD's momentum, 0 ≤ d ≤ 1.
        weight_decay: Decoupled for those in `DECOUPLED`, else coupled.
        parameters: Names; none means every parameter of the model.
        initial_learning_rate: With which a scheduler began, if there was one.
        momentum_cycles: Whether a scheduler moves momentum.
        step_mass: Σ of learning rate times momentum's factor over the steps that count for the
            checkpoint; None where nothing but the checkpoints' own settings is known.
    """

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    parameters: tuple[str, ...] = ()
    initial_learning_rate: float | None = None
    momentum_cycles: bool = False
    step_mass: float | None = None

    @property
    def rate_at_begin(self) -> float:
        """The rate at which a stage began: the scheduler's, if there was one."""
        initial = self.initial_learning_rate
        return self.learning_rate if initial is None else initial

    @property
    def step_factor(self) -> float:
        """(1 − d)/(1 − β), by which momentum multiplies a step."""
        # torch leaves dampening out where there is no momentum.
        return (1 - self.dampening) / (1 - self.momentum) if self.momentum else 1.0


@dataclass(frozen=True)
class ParameterSettings:
    """How a parameter was trained over a segment.

    Attributes:
        step_mass: τ.
        weight_decay: w, the mean over the steps, weighted by step mass.
    """

    step_mass: float
    weight_decay: float
