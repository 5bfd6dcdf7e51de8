"""Source against mini-batch training, differentiated along its batch orders, on a quadratic.

The mean gradient is 0 at the minimum, where training starts and around which mini-batches keep
it moving, so that what Source assumes is true but for the noise.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.training.optimizer_settings import ParameterGroup
from sourcetrace.core.training.segments import CheckpointRecord, partition
from tests.oracles.dense import matrix_propagation, matrix_response
from tests.oracles.recursion import Phase, UpdateRule, removal_effects, shuffled_batches, train
from tests.tiny import assert_close, seeded

SIZE, EXAMPLES, BATCH, ORDERS = 5, 12, 4, 2

RULES = {
    "plain": UpdateRule("sgd", 0.005),
    "heavy ball": UpdateRule("sgd", 0.0005, momentum=0.9),
    "Nesterov": UpdateRule("sgd", 0.0005, momentum=0.9, nesterov=True),
    "dampened": UpdateRule("sgd", 0.001, momentum=0.9, dampening=0.5),
    "weight decay": UpdateRule("sgd", 0.0005, momentum=0.9, weight_decay=0.5),
    "Adam": UpdateRule("adam", 0.002),
    "Adam, weight decay": UpdateRule("adam", 0.002, weight_decay=0.5),
    "AdamW": UpdateRule("adamw", 0.002, weight_decay=0.5),
    "amsgrad": UpdateRule("adam", 0.002, amsgrad=True),
}


class Quadratic:
    """0.5 θᵀ H_i θ − b_iᵀ θ, with Σ b_i = 0, so that the minimum is at 0."""

    def __init__(self, seed: int, size: int = SIZE) -> None:
        scale = torch.logspace(0, -1, size, dtype=torch.float64)
        with seeded(seed):
            roots = torch.randn(EXAMPLES, size, 3, dtype=torch.float64) * scale.unsqueeze(1)
            slopes = torch.randn(EXAMPLES, size, dtype=torch.float64) * scale
        self.curvatures = roots @ roots.mT
        self.slopes = slopes - slopes.mean(0)

    def __call__(self, parameters: Tensor, index: Tensor) -> Tensor:
        quadratic = torch.einsum("p,npq,q->n", parameters, self.curvatures[index], parameters)
        return 0.5 * quadratic - self.slopes[index] @ parameters


def phases(rule: UpdateRule, order: int, *, stages: int, epochs: int) -> list[Phase]:
    return [
        Phase(
            Quadratic(50 + stage),
            EXAMPLES,
            shuffled_batches(EXAMPLES, BATCH, epochs, seed=10 * order + stage),
            rule,
        )
        for stage in range(stages)
    ]


def unrolled(rule: UpdateRule, queries: Tensor, *, stages: int, epochs: int) -> Tensor:
    """Return the removal effects, the mean over batch orders, [Q, stages · N]."""
    start = torch.zeros(SIZE, dtype=torch.float64)
    runs = [
        removal_effects(
            phases(rule, order, stages=stages, epochs=epochs), start, lambda final: queries @ final
        )
        for order in range(ORDERS)
    ]
    return torch.cat([sum(parts) / ORDERS for parts in zip(*runs, strict=True)], dim=1)


def step_mass(rule: UpdateRule, steps: int) -> float:
    """Return τ as the package has it."""
    group = ParameterGroup(rule.lr, rule.momentum, rule.dampening, rule.weight_decay)
    record = CheckpointRecord("only", steps, "a", rule.lr, 0.0, 0.0, groups=(group,))
    return partition([record], 1)[0].step_mass


def source(rule: UpdateRule, queries: Tensor, *, stages: int, epochs: int) -> Tensor:
    """Return Source's scores with dense matrices and the exact P̄ of one run."""
    one = phases(rule, 0, stages=stages, epochs=epochs)
    seen = train(one, torch.zeros(SIZE, dtype=torch.float64)).denominators
    steps = len(one[0].batches)
    shares = []
    carried = queries
    for stage in reversed(range(stages)):
        quadratic = Quadratic(50 + stage)
        inverse = torch.ones(SIZE, dtype=torch.float64)
        if seen:
            own = torch.stack(seen[stage * steps : (stage + 1) * steps])
            inverse = (1 / own[len(own) // 6 :: len(own) // 6]).mean(0)
        root = torch.diag(inverse.sqrt())
        decay = torch.diag(inverse) if rule.kind == "adam" else torch.eye(SIZE).double()
        matrix = root @ quadratic.curvatures.mean(0) @ root + rule.weight_decay * decay
        mass = step_mass(rule, steps)
        response = root @ matrix_response(matrix, mass) @ root
        shares.append(carried @ response @ -quadratic.slopes.T / EXAMPLES)
        carried = carried @ root @ matrix_propagation(matrix, mass) @ torch.inverse(root)
    return torch.cat(shares[::-1], dim=1)


def agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the correlation, and the factor that fits the first to the second."""
    pair = torch.stack([first.flatten(), second.flatten()])
    return float(torch.corrcoef(pair)[0, 1]), float((pair[0] @ pair[1]) / (pair[1] @ pair[1]))


@pytest.fixture(scope="module")
def queries() -> Tensor:
    with seeded(60):
        return torch.randn(4, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
def test_source_agrees_with_unrolled_training(name, queries):
    rule = RULES[name]
    truth = unrolled(rule, queries, stages=1, epochs=30)
    correlation, factor = agreement(truth, source(rule, queries, stages=1, epochs=30))
    assert correlation > 0.99
    assert factor == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("name", ["heavy ball", "AdamW"])
def test_source_agrees_with_unrolled_training_over_two_stages(name, queries):
    rule = RULES[name]
    truth = unrolled(rule, queries, stages=2, epochs=30)
    found = source(rule, queries, stages=2, epochs=30)
    for stage in (slice(0, EXAMPLES), slice(EXAMPLES, None)):
        correlation, factor = agreement(truth[:, stage], found[:, stage])
        assert correlation > 0.99
        assert factor == pytest.approx(1.0, abs=0.1)


def test_leaving_the_preconditioner_out_is_seen(queries):
    """Guards the tests above: the same scores without P̄ are far off."""
    rule = RULES["Adam"]
    truth = unrolled(rule, queries, stages=1, epochs=30)
    plain = source(replace(rule, kind="sgd"), queries, stages=1, epochs=30)
    correlation, factor = agreement(truth, plain)
    assert correlation < 0.95
    assert not 0.5 < factor < 2.0


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_takes_the_steps_of_torch(name):
    rule = RULES[name]
    (one,) = phases(rule, 3, stages=1, epochs=3)
    with seeded(61):
        start = torch.randn(SIZE, dtype=torch.float64)
    expected = train([one], start).parameters[-1]
    parameter = nn.Parameter(start.clone())
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    settings = {"lr": rule.lr, "weight_decay": rule.weight_decay}
    if rule.kind == "sgd":
        settings |= {
            "momentum": rule.momentum,
            "dampening": rule.dampening,
            "nesterov": rule.nesterov,
        }
    else:
        settings |= {"betas": rule.betas, "eps": rule.eps, "amsgrad": rule.amsgrad}
    optimizer = kinds[rule.kind]([parameter], **settings)
    for batch in one.batches:
        optimizer.zero_grad()
        one.losses(parameter, batch).mean().backward()
        optimizer.step()
    assert_close(parameter.detach(), expected, tolerance=1e-12)


def test_the_oracle_is_the_recursion_of_gradient_descent(queries):
    """r ← (I − (η/B) Σ ∇²ℓ) r + (η/B) ∇ℓ for an example in the batch."""
    rule, rate = RULES["plain"], RULES["plain"].lr
    (one,) = phases(rule, 1, stages=1, epochs=3)
    start = torch.zeros(SIZE, dtype=torch.float64)
    (found,) = removal_effects([one], start, lambda final: queries @ final)
    quadratic = one.losses
    responses = torch.zeros(EXAMPLES, SIZE, dtype=torch.float64)
    parameters = start
    for batch in one.batches:
        gradients = quadratic.curvatures[batch] @ parameters - quadratic.slopes[batch]
        mean = quadratic.curvatures[batch].mean(0)
        responses = responses - rate * responses @ mean
        responses[batch] += rate / BATCH * gradients
        parameters = parameters - rate * gradients.mean(0)
    assert_close(found, queries @ responses.T)
