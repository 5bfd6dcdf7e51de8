"""The optimisers that are known: by what each is recognised, and what its steps are taken for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sourcetrace.checkpoints.training import denominators
from sourcetrace.checkpoints.training.denominators import QUANTISED, ParameterState
from sourcetrace.core.training.optimizer_settings import OptimizerName

_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
_ADAM = {"lr", "betas", "eps", "weight_decay"}
_UNCLIPPED = "Adafactor's own clipping changed no update"
_DIRECTION = (
    "{}'s step is taken for one along its averaged gradient, of one length for all of a tensor"
)


@dataclass(frozen=True)
class KnownOptimizer:
    """An optimiser.

    Attributes:
        name: Its name.
        settings: What a group of it has, and others may have not.
        others: What a group may have besides: other optimisers (LARS, SAM, SGDW) have more.
        moments: What a parameter's state has, one of them at least.
        denominator: What divides the gradient; None if nothing does.
        decoupled: Its name where the group says that weight decay is decoupled.
        has_heavy_ball: Whether `momentum` adds steps up, rather than averaging them.
        assumed: What is assumed of its updates, where something is.
        approximation: What its steps are taken for, where they are not followed as they are;
            `checkpoints.accept` must then name it.
        own_rates: Gives the rates of so many steps, [steps], where a group has none.
        unlike: What an optimiser of the same settings would be -> whether a group is its.
    """

    name: OptimizerName
    settings: frozenset[str]
    others: frozenset[str]
    moments: tuple[str, ...] = ()
    denominator: Callable[[ParameterState], Tensor] | None = None
    decoupled: OptimizerName | None = None
    has_heavy_ball: bool = False
    assumed: str = ""
    approximation: str = ""
    own_rates: Callable[[Mapping[str, Any], int], Tensor] | None = None
    unlike: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)

    def foreign(self, groups: Iterable[Mapping[str, Any]]) -> set[str]:
        """Return settings that it does not have; a text is a group's name."""
        known = self.settings | self.others | _OF_SCHEDULERS | {"params", "param_names"}
        return {
            key for one in groups for key in one.keys() - known if not isinstance(one[key], str)
        }

    def fits(self, entries: Iterable[Mapping[str, Any]]) -> bool:
        """Return whether every parameter's state has one of its moments."""
        states = ({**one, **one.get(QUANTISED, {})} for one in entries if one)
        return not self.moments or all(set(self.moments) & one.keys() for one in states)


def _relative_rates(group: Mapping[str, Any], steps: int) -> Tensor:
    """Return the rates of Adafactor's `relative_step`."""
    step = torch.arange(1, steps + 1, dtype=torch.float64)
    most = 1e-6 * step if group["warmup_init"] else torch.full_like(step, 1e-2)
    return torch.minimum(most, step.rsqrt())


def _of_torch(kind: type[torch.optim.Optimizer], *more: str) -> frozenset[str]:
    # Not an optimiser's `defaults`: making one loads all of torch's compiler.
    return frozenset({*signature(kind).parameters, *more})


OPTIMIZERS = (
    KnownOptimizer(
        "SGD",
        frozenset({"lr", "momentum", "dampening", "nesterov", "weight_decay"}),
        _of_torch(torch.optim.SGD),
        has_heavy_ball=True,
    ),
    KnownOptimizer(
        "Adam",
        frozenset({*_ADAM, "amsgrad"}),
        _of_torch(torch.optim.AdamW, "decoupled_weight_decay"),
        ("exp_avg_sq",),
        denominators.of_adam,
        decoupled="AdamW",
    ),
    KnownOptimizer(
        "NAdam",
        frozenset({*_ADAM, "momentum_decay", "decoupled_weight_decay"}),
        _of_torch(torch.optim.NAdam),
        ("exp_avg_sq",),
        denominators.of_adam,
        decoupled="NAdamW",
    ),
    KnownOptimizer(
        "RAdam",
        frozenset({*_ADAM, "foreach", "decoupled_weight_decay"}),
        _of_torch(torch.optim.RAdam),
        ("exp_avg_sq",),
        denominators.of_radam,
        decoupled="RAdamW",
    ),
    KnownOptimizer(
        "Adamax",
        frozenset({*_ADAM, "foreach"}),
        _of_torch(torch.optim.Adamax),
        ("exp_inf",),
        denominators.of_adamax,
    ),
    KnownOptimizer(
        "RMSprop",
        frozenset({"lr", "alpha", "eps", "centered", "momentum", "weight_decay"}),
        _of_torch(torch.optim.RMSprop),
        ("square_avg",),
        denominators.of_rmsprop,
        has_heavy_ball=True,
    ),
    KnownOptimizer(
        "Adagrad",
        frozenset({"lr", "lr_decay", "eps", "weight_decay"}),
        _of_torch(torch.optim.Adagrad),
        ("sum",),
        denominators.of_adagrad,
    ),
    KnownOptimizer(
        "Adadelta",
        frozenset({"lr", "rho", "eps", "weight_decay"}),
        _of_torch(torch.optim.Adadelta),
        ("acc_delta",),
        denominators.of_adadelta,
    ),
    KnownOptimizer(
        "Adafactor",
        frozenset({"lr", "beta2_decay", "eps", "d", "weight_decay"}),
        _of_torch(torch.optim.Adafactor),
        ("row_var", "variance"),
        denominators.of_adafactor,
        assumed=_UNCLIPPED,
    ),
    KnownOptimizer(  # transformers'
        "Adafactor",
        frozenset(
            {"lr", "eps", "clip_threshold", "decay_rate", "beta1", "weight_decay"}
            | {"scale_parameter", "relative_step", "warmup_init"}
        ),
        frozenset(),
        ("exp_avg_sq", "exp_avg_sq_row"),
        denominators.of_transformers_adafactor,
        assumed=_UNCLIPPED,
        own_rates=_relative_rates,
        unlike={
            "Adafactor with scale_parameter and weight decay, whose decay differs from tensor to "
            "tensor": lambda group: group["scale_parameter"] and group["weight_decay"]
        },
    ),
    KnownOptimizer(  # transformers'
        "AdamW",
        frozenset({*_ADAM, "correct_bias"}),
        frozenset(),
        ("exp_avg_sq",),
        denominators.of_transformers_adamw,
    ),
    KnownOptimizer(  # bitsandbytes': its Adam decouples weight decay, too
        "AdamW",
        frozenset(_ADAM),
        frozenset({"alpha", "t_alpha", "t_beta3"}),
        ("state2",),
        denominators.of_quantised_adam,
        unlike={"AdEMAMix": lambda group: group.get("alpha")},
    ),
    KnownOptimizer(
        "Lion",
        frozenset({"lr", "betas", "weight_decay"}),
        frozenset({"maximize", "foreach"}),
        ("exp_avg",),
        denominators.of_lion,
        approximation=_DIRECTION.format("Lion"),
    ),
    KnownOptimizer(
        "Muon",
        frozenset({"lr", "momentum", "nesterov", "ns_coefficients", "ns_steps", "adjust_lr_fn"}),
        _of_torch(torch.optim.Muon),
        ("momentum_buffer",),
        denominators.of_muon,
        approximation=_DIRECTION.format("Muon"),
    ),
)
