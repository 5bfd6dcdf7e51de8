"""Source against training unrolled step by step, on a tanh network of 93 parameters.

The truth is the derivative of the final model's measurements by every example's weight, through
every step of the optimiser (tests/oracles/recursion.py), averaged over batch orders. Printed
are its correlations, over all queries and examples, averaged over networks and data, with

- source: the package's own score of the first run (EK-FAC; Adam's P̄^½ of rank one in it),
- exact Λ: the same with Λ from gradients scaled by the whole P̄^½,
- layers: the same equation with each layer's Gauss-Newton matrix and the exact P̄,
- dense: the same with the whole Gauss-Newton matrix and the exact P̄,
- Hessian: the same with the Hessian itself in the Gauss-Newton matrix's place,
- no P̄: source with Adam's preconditioner left out,
- one order: a single batch order's derivative with the mean of the others, which nothing that
  knows one run can be expected to beat by much.

    python -m benchmarks.unrolled
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tests.oracles.dense import matrix_function, matrix_response
from tests.oracles.recursion import Phase, Trajectory, UpdateRule, shuffled_batches, train
from tests.tiny import fit_segment
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import LayerCovariances, RunningCovariances
from sourcetrace.core.curvature.preconditioner import mean_preconditioner
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import DenseGradient, LayerGradient
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.preparation import QueryPreparation
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.plan.plan import AttributionPlan
from sourcetrace.core.training.segments import CheckpointRecord, partition
from sourcetrace.tasks import ClassificationTask

EXAMPLES, QUERIES, BATCH, CLASSES = 48, 8, 8, 3
SEGMENTS_A_STAGE, CHECKPOINTS_A_STAGE = 3, 6
EPOCHS = 60
_HEAVY_BALL = UpdateRule("sgd", 0.005, momentum=0.9)
_ADAMW = UpdateRule("adamw", 0.002, weight_decay=0.1)
SETTINGS: dict[str, list[tuple[int, UpdateRule]]] = {
    "SGD": [(EPOCHS, UpdateRule("sgd", 0.05))],
    "momentum 0.9": [(EPOCHS, _HEAVY_BALL)],
    "Nesterov 0.9": [(EPOCHS, replace(_HEAVY_BALL, nesterov=True))],
    "momentum 0.9, dampening 0.5": [(EPOCHS, replace(_HEAVY_BALL, lr=0.01, dampening=0.5))],
    "momentum 0.9, weight decay 0.01": [(EPOCHS, replace(_HEAVY_BALL, weight_decay=0.01))],
    "momentum 0.9, two stages": [(EPOCHS, _HEAVY_BALL)] * 2,
    "Adam": [(EPOCHS, UpdateRule("adam", 0.002))],
    "Adam, ε = 0.01": [(EPOCHS, UpdateRule("adam", 0.002, eps=0.01))],
    "Adam, amsgrad": [(EPOCHS, UpdateRule("adam", 0.002, amsgrad=True))],
    "Adam, weight decay 0.01": [(EPOCHS, UpdateRule("adam", 0.002, weight_decay=0.01))],
    "AdamW, weight decay 0.1": [(EPOCHS, _ADAMW)],
    "AdamW, weight decay 0.1, two stages": [(EPOCHS, _ADAMW)] * 2,
}
COLUMNS = ("source", "exact Λ", "layers", "dense", "Hessian", "no P̄", "one order")


class Nothing:
    """A cache that keeps nothing."""

    keeps = False

    def get(self, key: str) -> None:
        """Return nothing."""

    def put(self, key: str, tensors: Any) -> None:
        """Keep nothing."""


class DenseSource(GradientEngine):
    """Gradients with sampled labels multiplied out, so that P̄^½ scales them exactly."""

    def sampled_gradients(self, point: EvaluationPoint, block: Block) -> dict[str, LayerGradient]:
        """Return them by layer."""
        factored = super().sampled_gradients(point, block)
        return {name: DenseGradient(one.dense()) for name, one in factored.items()}


@dataclass(frozen=True)
class Data:
    """Training examples of every stage and the queries."""

    inputs: Tensor
    labels: Tensor
    stages: tuple[str, ...]
    query_inputs: Tensor
    query_labels: Tensor

    def stage_examples(self) -> dict[str, Tensor]:
        """Return stage -> numbers of its examples."""
        return {
            name: torch.tensor([i for i, own in enumerate(self.stages) if own == name])
            for name in dict.fromkeys(self.stages)
        }


class Network:
    """The network as a function of one flat parameter vector, and as a module."""

    def __init__(self) -> None:
        layers = (nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        self.module = nn.Sequential(*layers).double()
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the vector's parts by parameter name."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def same_layer(self) -> Tensor:
        """Return 1 where two parameters are of one layer, else 0, [P, P]."""
        layers = torch.cat(
            [torch.full((shape.numel(),), int(name[0])) for name, shape in self.shapes.items()]
        )
        return (layers.unsqueeze(0) == layers.unsqueeze(1)).double()

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits, [N, C]."""
        return torch.func.functional_call(self.module, self.named(flat), (inputs,))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p − log(1 − p) of the labels, [N]."""
    logs = logits.log_softmax(1).gather(1, labels.unsqueeze(1))[:, 0]
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).logsumexp(1)
    return logs - (others - logits.logsumexp(1))


def make_data(stages: int) -> Data:
    """Return noisy clusters; a later stage's are shifted."""
    examples = EXAMPLES * stages
    centers = 1.2 * torch.randn(CLASSES, 4, dtype=torch.float64)
    labels = torch.randint(CLASSES, (examples + QUERIES,))
    inputs = centers[labels] + torch.randn(len(labels), 4, dtype=torch.float64)
    shift = torch.arange(len(labels)).unsqueeze(1) >= EXAMPLES
    inputs = inputs + 0.5 * shift * torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64)
    names = tuple(f"stage {i // EXAMPLES}" for i in range(examples))
    split = (inputs[:examples], labels[:examples], inputs[examples:], labels[examples:])
    return Data(split[0], split[1], names, split[2], split[3])


def phases_of(
    network: Network, data: Data, rules: Sequence[tuple[int, UpdateRule]], seed: int
) -> list[Phase]:
    """Return the stages of training in one batch order."""
    phases = []
    for number, (epochs, rule) in enumerate(rules):
        inputs = data.inputs[number * EXAMPLES : (number + 1) * EXAMPLES]
        labels = data.labels[number * EXAMPLES : (number + 1) * EXAMPLES]

        def losses(flat: Tensor, index: Tensor, x: Tensor = inputs, y: Tensor = labels) -> Tensor:
            return nn.functional.cross_entropy(
                network.logits(flat, x[index]), y[index], reduction="none"
            )

        batches = shuffled_batches(EXAMPLES, BATCH, epochs, seed=10 * seed + number)
        phases.append(Phase(losses, EXAMPLES, batches, rule))
    return phases


def checkpoint_steps(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """Return (stage, step) of every checkpoint, steps counted over the whole training."""
    found, before = [], 0
    for number, phase in enumerate(phases):
        steps = len(phase.batches)
        found += [
            (number, before + steps * (i + 1) // CHECKPOINTS_A_STAGE)
            for i in range(CHECKPOINTS_A_STAGE)
        ]
        before += steps
    return found


def make_records(phases: Sequence[Phase]) -> list[CheckpointRecord]:
    """Return what the checkpoints of a run say."""
    names: dict[str, Any] = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
    return [
        CheckpointRecord(
            id=str(step),
            step=step,
            stage=f"stage {number}",
            # Dampening belongs to groups; the factor does as well here.
            learning_rate=phases[number].rule.lr * (1 - phases[number].rule.dampening),
            momentum=phases[number].rule.momentum,
            weight_decay=phases[number].rule.weight_decay,
            optimizer=names[phases[number].rule.kind],
        )
        for number, step in checkpoint_steps(phases)
    ]


def source_scores(
    network: Network,
    data: Data,
    phases: Sequence[Phase],
    run: Trajectory,
    *,
    preconditioned: bool = True,
    kind: type[GradientEngine] = GradientEngine,
) -> Tensor:
    """Return the package's scores of one run, [Q, N]."""
    records = make_records(phases)
    weights = {one.id: network.named(run.parameters[one.step - 1].detach()) for one in records}
    task = ClassificationTask()
    items = list(zip(data.inputs, data.labels, strict=True))
    training = Examples(items, [str(i) for i in range(len(items))], task.collate)
    batch = training.batch([0, 1], torch.device("cpu"))
    coverage = find_layers(network.module, lambda: task.forward(network.module, batch))
    engine = kind(
        model=network.module,
        objective=task,
        coverage=coverage,
        training=training,
        load_weights=weights.__getitem__,
        cache=Nothing(),
        batch_size=EXAMPLES,
        seed=0,
        device=torch.device("cpu"),
    )
    plan = AttributionPlan.of(
        "source",
        partition(records, SEGMENTS_A_STAGE * len(phases)),
        data.stage_examples(),
    )
    covariances = {point.id: _covariances(engine, point) for point in plan.points}
    curvatures = []
    for planned in plan.segments:
        roots = {}
        if preconditioned and run.denominators:
            steps = [int(name) for name in planned.segment.checkpoints]
            divided = [network.named(run.denominators[step - 1]) for step in steps]
            for layer in coverage.layers:
                root = mean_preconditioner(layer, divided, dtype=torch.float64)
                assert root is not None  # noqa: S101
                roots[layer.name] = root
        curvatures.append(fit_segment(engine, planned, covariances, preconditioners=roots))
    queries = Examples(
        list(zip(data.query_inputs, data.query_labels, strict=True)),
        [f"query {i}" for i in range(QUERIES)],
        task.collate,
    )
    scorer = MeanScorer.of(
        QueryPreparation("source", engine, queries), plan, curvatures, higher_is_better=True
    )
    scores = [scorer.scores(block, self_influence=False).shares for block in engine.blocks()]
    return torch.cat(scores, dim=2).sum(0)[:-1]


def _covariances(engine: GradientEngine, point: EvaluationPoint) -> LayerCovariances:
    running = RunningCovariances()
    for block in engine.blocks():
        if len(point.rows(block)):
            running.add(engine.extract(point, block).covariances)
    return running.sums()


def dense_scores(
    network: Network,
    data: Data,
    phases: Sequence[Phase],
    run: Trajectory,
    *,
    hessian: bool = False,
    by_layer: bool = False,
) -> Tensor:
    """Return the scores with the whole curvature matrix and the exact P̄, [Q, N]."""
    plan: AttributionPlan = AttributionPlan.of(
        "source",
        partition(make_records(phases), SEGMENTS_A_STAGE * len(phases)),
        data.stage_examples(),
    )
    final = run.parameters[-1].detach()
    change = torch.func.jacrev(
        lambda flat: margins(network.logits(flat, data.query_inputs), data.query_labels)
    )(final)
    scores = torch.zeros(QUERIES, len(data.labels), dtype=torch.float64)
    for planned in reversed(plan.segments):
        own = planned.examples
        matrices, gradients, inverses = [], [], []
        for name in planned.segment.checkpoints:
            flat = run.parameters[int(name) - 1].detach()
            matrix, slopes = _gauss_newton(network, flat, data.inputs[own], data.labels[own])
            if hessian:
                matrix = _hessian(network, flat, data.inputs[own], data.labels[own])
            matrices.append(matrix)
            gradients.append(slopes)
            if run.denominators:
                inverses.append(1 / run.denominators[int(name) - 1])
        mean = torch.stack(matrices).mean(0)
        if by_layer:
            mean = mean * network.same_layer()
        unit = torch.ones_like(final)
        inverse = torch.stack(inverses).mean(0) if inverses else unit
        root = inverse.sqrt()
        segment = planned.segment
        decay = segment.weight_decay * (inverse if segment.optimizer == "Adam" else unit)
        matrix = root.unsqueeze(1) * mean * root + torch.diag(decay)
        mass = segment.step_mass
        response = root.unsqueeze(1) * matrix_response(matrix, mass) * root
        scores[:, own] += change @ response @ torch.stack(gradients).mean(0).T / len(own)
        left = matrix_function(matrix, lambda sigma, mass=mass: torch.exp(-mass * sigma))
        change = change @ (root.unsqueeze(1) * left / root)
    return scores


def _gauss_newton(
    network: Network, flat: Tensor, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the Gauss-Newton matrix [P, P] and the gradients [N, P]."""
    jacobian = torch.func.jacrev(lambda one: network.logits(one, inputs))(flat)
    probabilities = network.logits(flat, inputs).softmax(1)
    inner = torch.diag_embed(probabilities) - probabilities.unsqueeze(2) * probabilities.unsqueeze(
        1
    )
    matrix = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / len(labels)
    residual = probabilities - nn.functional.one_hot(labels, CLASSES)
    return matrix, torch.einsum("ncp,nc->np", jacobian, residual)


def _hessian(network: Network, flat: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the Hessian of the mean loss, [P, P]."""
    return torch.func.hessian(
        lambda one: nn.functional.cross_entropy(network.logits(one, inputs), labels)
    )(flat)


def correlation(first: Tensor, second: Tensor) -> float:
    """Return Pearson's correlation over all entries."""
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def compare(rules: Sequence[tuple[int, UpdateRule]], *, orders: int, seed: int) -> list[float]:
    """Return one network's correlations, in the order of `COLUMNS`."""
    torch.manual_seed(seed)
    network, data = Network(), make_data(len(rules))
    start = torch.cat([p.detach().flatten() for p in network.module.parameters()])
    effects, first = [], None
    for order in range(orders):
        run = train(phases_of(network, data, rules, order), start)
        measured = margins(network.logits(run.parameters[-1], data.query_inputs), data.query_labels)
        rows = [torch.autograd.grad(one, run.weights, retain_graph=True) for one in measured]
        effects.append(-torch.stack([torch.cat(row) for row in rows]))
        if first is None:
            run.parameters = [one.detach() for one in run.parameters]
            first = run
    assert first is not None  # noqa: S101
    phases = phases_of(network, data, rules, 0)
    truth = torch.stack(effects).mean(0)
    others = [(orders * truth - one) / (orders - 1) for one in effects]
    ceiling = [correlation(one, rest) for one, rest in zip(effects, others, strict=True)]
    given = (network, data, phases, first)
    return [
        correlation(source_scores(*given), truth),
        correlation(source_scores(*given, kind=DenseSource), truth),
        correlation(dense_scores(*given, by_layer=True), truth),
        correlation(dense_scores(*given), truth),
        correlation(dense_scores(*given, hessian=True), truth),
        correlation(source_scores(*given, preconditioned=False), truth),
        sum(ceiling) / orders,
    ]


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description="Source against unrolled training.")
    parser.add_argument("--orders", type=int, default=2, help="at least 2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parser.parse_args()
    print(f"| optimiser | {' | '.join(COLUMNS)} |")
    print("| --- |" + " --- |" * len(COLUMNS))
    for name in arguments.settings:
        runs = [
            compare(SETTINGS[name], orders=arguments.orders, seed=seed) for seed in arguments.seeds
        ]
        cells = " | ".join(f"{sum(column) / len(runs):.3f}" for column in zip(*runs, strict=True))
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
