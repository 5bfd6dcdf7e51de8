"""Source against training by torch's other optimisers, differentiated step by step.

torch's own updates are differentiated (`differentiable=True`); P̄ is what is read of their states.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from sourcetrace.checkpoints.training.second_moments import denominators_of
from sourcetrace.core.training.optimizer_settings import DECOUPLED, ParameterGroup
from sourcetrace.core.training.segments import CheckpointRecord, partition
from tests.core.methods.test_unrolled import BATCH, EXAMPLES, ORDERS, Quadratic, agreement
from tests.oracles.dense import matrix_response
from tests.oracles.recursion import shuffled_batches
from tests.tiny import assert_close, seeded

SHAPE, SIZE, EPOCHS, CHECKPOINTS = (3, 2), 6, 30, 15


class Adafactor:
    """torch's Adafactor, which torch cannot differentiate; as `torch.optim.Optimizer`."""

    def __init__(
        self, parameters, lr, d=1.0, weight_decay=0.0, eps=(1e-10, 0.05), beta2_decay=-0.8
    ):
        settings = {"lr": lr, "d": d, "weight_decay": weight_decay, "eps": eps}
        group = {"params": parameters, **settings, "beta2_decay": beta2_decay}
        self.param_groups = [group]
        zeros = torch.zeros(SHAPE, dtype=torch.float64)
        factors = {"row_var": zeros[:, :1], "col_var": zeros[:1]}
        self.state = {parameters[0]: {"step": torch.tensor(0.0), **factors}}

    def step(self):
        (group,) = self.param_groups
        ((parameter, state),) = self.state.items()
        state["step"] = state["step"] + 1
        step, squared = float(state["step"]), parameter.grad**2
        new = step ** group["beta2_decay"]
        for key, dim in (("row_var", -1), ("col_var", -2)):
            state[key] = (1 - new) * state[key] + new * squared.mean(dim, keepdim=True)
        mean = state["row_var"].mean(-2, keepdim=True)
        update = parameter.grad / (state["row_var"] * state["col_var"] / mean).sqrt()
        size = parameter.clone().square().mean().sqrt().clamp(min=group["eps"][1])
        rate = size * min(group["lr"], step**-0.5)
        update = update / (update.square().mean().sqrt() / group["d"]).clamp(min=1.0)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(rate * update)

    def state_dict(self):
        return {
            "state": dict(enumerate(self.state.values())),
            "param_groups": [{**one, "params": [0]} for one in self.param_groups],
        }


@dataclass(frozen=True)
class Rule:
    """An optimiser, its name, and how far from 1 the factor may be."""

    kind: Any
    lr: float
    name: str
    more: dict[str, Any] = field(default_factory=dict)
    within: float = 0.07

    def make(self, parameters: list[Tensor]) -> Any:
        differentiable = {} if self.kind is Adafactor else {"differentiable": True}
        return self.kind(parameters, lr=self.lr, **self.more, **differentiable)


DECAY = {"weight_decay": 0.5}
RULES = {
    "RMSprop": Rule(optim.RMSprop, 0.002, "RMSprop"),
    "RMSprop, momentum": Rule(optim.RMSprop, 0.0002, "RMSprop", {"momentum": 0.9}),
    "RMSprop, centred": Rule(optim.RMSprop, 0.002, "RMSprop", {"centered": True}),
    "RMSprop, decay": Rule(optim.RMSprop, 0.002, "RMSprop", DECAY),
    "NAdam": Rule(optim.NAdam, 0.002, "NAdam"),
    "NAdamW": Rule(optim.NAdam, 0.002, "NAdamW", {**DECAY, "decoupled_weight_decay": True}),
    "RAdam": Rule(optim.RAdam, 0.002, "RAdam", {"betas": (0.9, 0.99)}),
    "Adamax": Rule(optim.Adamax, 0.004, "Adamax"),
    "Adagrad": Rule(optim.Adagrad, 0.02, "Adagrad", {"lr_decay": 0.01}),
    "Adagrad, decay": Rule(optim.Adagrad, 0.02, "Adagrad", DECAY),
    "Adadelta": Rule(optim.Adadelta, 0.5, "Adadelta", within=0.2),
    "Adafactor": Rule(Adafactor, 0.05, "Adafactor", {"d": 1e9}),
    "Adafactor, decay": Rule(Adafactor, 0.01, "Adafactor", {"d": 1e9, **DECAY}),
    "Adafactor, clipped": Rule(Adafactor, 0.05, "Adafactor", within=0.2),
}


def trained(rule: Rule, order: int) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Return the final parameters, the weights that they depend on, and some states on the way."""
    losses = Quadratic(50, SIZE)
    weights = torch.ones(EXAMPLES, dtype=torch.float64, requires_grad=True)
    parameter = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True) * 1.0
    optimizer = rule.make([parameter])
    batches = shuffled_batches(EXAMPLES, BATCH, EPOCHS, seed=10 * order)
    every, states = len(batches) // CHECKPOINTS, []
    for number, batch in enumerate(batches, start=1):
        point = parameter.clone()  # the optimiser changes it in place, and its state
        for entry in optimizer.state.values():
            entry |= {key: value.clone() for key, value in entry.items()}
        loss = (weights[batch] * losses(point.flatten(), batch)).mean()
        (parameter.grad,) = torch.autograd.grad(loss, point, create_graph=True)
        optimizer.step()
        if number % every == 0:
            saved = optimizer.state_dict()
            entry = {key: value.detach().clone() for key, value in saved["state"][0].items()}
            state = {"state": {0: entry}, "param_groups": copy.deepcopy(saved["param_groups"])}
            weight = parameter.detach().clone()
            states.append(denominators_of(Path("a"), state, {0: ["w"]}, lambda w=weight: {"w": w}))
    return parameter.flatten(), weights, states


def source(rule: Rule, queries: Tensor, denominators: list[dict[str, Tensor]]) -> Tensor:
    """Return Source's scores with dense matrices and the P̄ of the checkpoints."""
    inverse = torch.stack([1 / one["w"].flatten() for one in denominators]).mean(0)
    decay = rule.more.get("weight_decay", 0.0)
    coupled = torch.eye(SIZE).double() if rule.name in DECOUPLED else torch.diag(inverse)
    root, losses = torch.diag(inverse.sqrt()), Quadratic(50, SIZE)
    matrix = root @ losses.curvatures.mean(0) @ root + decay * coupled
    steps = EXAMPLES // BATCH * EPOCHS
    group = ParameterGroup(rule.lr, rule.more.get("momentum", 0.0), weight_decay=decay)
    record = CheckpointRecord("only", steps, "a", rule.lr, 0.0, 0.0, groups=(group,))
    response = root @ matrix_response(matrix, partition([record], 1)[0].step_mass) @ root
    return queries @ response @ -losses.slopes.T / EXAMPLES


@pytest.mark.parametrize("name", RULES)
def test_source_agrees_with_unrolled_training(name):
    rule = RULES[name]
    with seeded(60):
        queries = torch.randn(4, SIZE, dtype=torch.float64)
    runs = [trained(rule, order) for order in range(ORDERS)]
    rows = [
        torch.stack(
            [torch.autograd.grad(q @ final, weights, retain_graph=True)[0] for q in queries]
        )
        for final, weights, _ in runs
    ]
    correlation, factor = agreement(-sum(rows) / ORDERS, source(rule, queries, runs[0][2]))
    assert correlation > 0.99
    assert factor == pytest.approx(1.0, abs=rule.within)


def test_adafactor_takes_the_steps_of_torch():
    settings = {"lr": 0.05, "weight_decay": 0.1, "eps": (1e-10, 0.05)}
    with seeded(61):
        start, gradients = torch.randn(SHAPE).double(), torch.randn(8, *SHAPE).double()
    ours, theirs = start.clone(), nn.Parameter(start.clone())
    optimizers = [Adafactor([ours], **settings), optim.Adafactor([theirs], **settings)]
    for gradient in gradients:
        ours.grad, theirs.grad = gradient, gradient.clone()
        for one in optimizers:
            one.step()
    assert_close(ours, theirs.detach(), tolerance=1e-12)
