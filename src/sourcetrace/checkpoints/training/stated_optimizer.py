"""Settings of an optimiser as a person writes them, and the state that torch would have saved."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from sourcetrace.checkpoints.prefixes import without_prefix
from sourcetrace.core.training.optimizer_settings import OptimizerName

_NAMES: dict[str, OptimizerName] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
NAMES = f"(?i)^({'|'.join(_NAMES)})$"
"""Of the optimisers that a person may say, as a pattern."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(default=0.0, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class _Group(_Settings):
    """The settings of one parameter group."""

    parameters: tuple[str, ...]
    learning_rate: float = Field(ge=0, allow_inf_nan=False)


class StatedOptimizer(_Settings):
    """An optimiser's settings.

    Attributes:
        name: SGD, Adam or AdamW; alone, it tells Adam's state from AdamW's.
        learning_rate, momentum, dampening, weight_decay: Of all parameters; or
        parameter_groups: of each group.
        nesterov: Whether momentum was Nesterov's; its step in the long run is the same.
        beta2, eps, optimizer_step: Of Adam; the step since it was made, if not the checkpoint's.
        second_moments: "none" where Adam's are lost: methods that follow the optimiser are then
            refused.
    """

    name: str | None = Field(default=None, pattern=NAMES)
    learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    nesterov: bool = False
    parameter_groups: tuple[_Group, ...] = ()
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, ge=0)
    optimizer_step: int | None = Field(default=None, ge=1)
    second_moments: Literal["none"] | None = None

    @model_validator(mode="after")
    def _has_one_rate(self) -> Self:
        if self.learning_rate is not None and self.parameter_groups:
            raise ValueError("give either learning_rate or parameter_groups")
        return self

    @property
    def kind(self) -> OptimizerName | None:
        """The name as torch writes it."""
        return None if self.name is None else _NAMES[self.name.lower()]

    @property
    def has_rates(self) -> bool:
        """Whether it is more than a name."""
        return self.learning_rate is not None or bool(self.parameter_groups)

    def over(self, other: "StatedOptimizer | None") -> "StatedOptimizer":
        """Return its settings, and those of another where it says nothing.

        Of the two, rates of all parameters and of groups are one setting, and what belongs to
        another optimiser does not count.
        """
        own = _said(self)
        if other is None or (self.kind or other.kind) != other.kind:
            return StatedOptimizer(**own)
        rest = _said(other)
        if self.has_rates:
            rest = {key: rest[key] for key in rest.keys() - {"learning_rate", "parameter_groups"}}
        return StatedOptimizer(**{**rest, **own})

    def state(self, step: int, moments: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the state as torch would.

        Args:
            step: Optimiser steps taken.
            moments: Parameter -> Adam's second moments.
        """
        if self.parameter_groups:
            named = {name for one in self.parameter_groups for name in one.parameters}
            plain = without_prefix(list(moments), named)
            moments = dict(zip(plain, moments.values(), strict=True))
        groups: list[dict[str, Any]] = []
        state: dict[int, dict[str, Any]] = {}
        count = 0
        for one in self.parameter_groups or (self,):
            # One set of settings names no parameters: it is of all that have moments, or of all.
            names = one.parameters if isinstance(one, _Group) else sorted(moments) or None
            group: dict[str, Any] = {"lr": one.learning_rate, "weight_decay": one.weight_decay}
            if self.kind in ("Adam", "AdamW"):
                group |= {
                    "params": range(count, count + len(names or ())),
                    "betas": (0.0, self.beta2),
                    "eps": self.eps,
                    "amsgrad": False,
                    "decoupled_weight_decay": self.kind == "AdamW",
                }
            else:
                group |= {
                    "params": (),
                    "momentum": one.momentum,
                    "dampening": one.dampening,
                    "nesterov": self.nesterov,
                }
            if names is not None:
                group["param_names"] = names
            groups.append(group)
            for name in names or ():
                if name in moments:
                    taken = self.optimizer_step or step
                    state[count] = {"exp_avg_sq": moments[name], "step": taken}
                count += 1
        return {"state": state, "param_groups": groups}


def _said(by: StatedOptimizer) -> dict[str, Any]:
    fields = set(StatedOptimizer.model_fields)
    return by.model_dump(include=fields, exclude_unset=True, exclude_none=True)
