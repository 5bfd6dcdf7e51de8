"""Tiny models, tasks, caches and a run over the whole core, small enough for dense answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.curvature.blocks import SegmentCurvature
from sourcetrace.core.curvature.covariance import LayerCovariances, RunningCovariances
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.methods.astra import SolveSettings
from sourcetrace.core.methods.fit import bases, eigenvalues, squares
from sourcetrace.core.methods.preparation import QueryPreparation, ScoreSettings
from sourcetrace.core.methods.scorers import MeanScorer
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.plan.filters import FilterSettings, SegmentFilter
from sourcetrace.core.plan.methods import METHODS
from sourcetrace.core.plan.plan import AttributionPlan, PlannedSegment
from sourcetrace.core.responses.score_check import ScoreCheck
from sourcetrace.core.training.segments import CheckpointRecord, number_segments, partition
from sourcetrace.tasks import ClassificationTask

CPU = torch.device("cpu")


def fit_segment(
    engine: GradientEngine,
    planned: PlannedSegment,
    covariances: Mapping[str, LayerCovariances],
    *,
    preconditioners: Mapping[str, Tensor] | None = None,
    progress: Iterable[tuple[EvaluationPoint, Block]] | None = None,
) -> SegmentCurvature:
    """Fit the EK-FAC curvature of one segment, as its stage does."""
    fitted = bases(engine, planned, covariances, preconditioners)
    sums = squares(engine, fitted, progress or engine.visits(planned.points))
    values = eigenvalues(engine, planned, sums)
    return {name: own.block(values[name]) for name, own in fitted.items()}


def assert_close(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-10) -> None:
    """Fail unless the largest difference is within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    actual, expected = actual.detach(), expected.detach()
    largest = float(expected.abs().max())
    assert largest > 0, "an expected value of 0 everywhere would prove nothing"
    difference = float((actual - expected).abs().max())
    assert difference <= tolerance * largest, f"off by {difference / largest:.3g} of the largest"


def state_of(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a training saves of itself."""
    return {
        "step": step,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a known seed inside, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class TinyConvNet(nn.Module):
    """Two convolutions, the second in groups, and a linear head: 87 parameters.

    The activations work in place, as in many published models.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.second = nn.Conv2d(2, 4, 2, groups=2, bias=False)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.activation(self.first(images))
        return self.head(self.activation(self.second(hidden)).flatten(1))


class LeastLikelyLabels(ClassificationTask):
    """Takes the least likely label for the sampled one, so that an oracle knows it too."""

    def sampled_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(outputs, outputs.argmin(-1), reduction="none")


class LossAsMeasurement(ClassificationTask):
    """Measures the training loss."""

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        return self.train_loss(outputs, batch)


class KeepsEverything:
    """A cache without a bound."""

    keeps = True

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        return self.kept.get(key)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        # A copy, as one written to disk would be.
        self.kept[key] = {name: tensor.clone() for name, tensor in tensors.items()}


class KeepsNothing:
    """A cache whose budget is 0."""

    keeps = False

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        pass


class KeepsEverySecond(KeepsEverything):
    """A cache that takes every second block it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.offered: list[str] = []

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        if key not in self.offered:
            self.offered.append(key)
        if self.offered.index(key) % 2:
            super().put(key, tensors)


Cache = KeepsEverything | KeepsNothing


@dataclass(frozen=True)
class Case:
    """A training run to attribute.

    Attributes:
        model: Its architecture; weights come from `states`.
        states: Checkpoint id -> state dict.
        records: The checkpoints, in order.
        images, labels, ids: The training examples.
        stages: The letters of each one's stages.
        query_images, query_labels: The queries.
    """

    model: nn.Module
    states: dict[str, dict[str, Tensor]]
    records: list[CheckpointRecord]
    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    stages: tuple[str, ...]
    query_images: Tensor
    query_labels: Tensor

    def stage_examples(self) -> dict[str, Tensor]:
        """Return stage -> numbers of its examples."""
        return {
            name: torch.tensor([i for i, stages in enumerate(self.stages) if name in stages])
            for name in sorted(set("".join(self.stages)))
        }

    def reordered(self, order: Sequence[int]) -> "Case":
        """Return the same run with its training examples in another order."""
        return replace(
            self,
            images=self.images[list(order)],
            labels=self.labels[list(order)],
            ids=tuple(self.ids[i] for i in order),
            stages=tuple(self.stages[i] for i in order),
        )

    def queried_with_training(self) -> "Case":
        """Return the same run with the training examples as its queries."""
        return replace(self, query_images=self.images, query_labels=self.labels)


def tiny_case(stages: Sequence[str] = "aaaabbbb") -> Case:
    """Return four checkpoints of a tiny network, 8 training examples and 3 queries.

    The step mass of every checkpoint is 1: 10 steps, rate 0.05, momentum 0.5.

    Args:
        stages: One letter an example, or several. With two different ones, the last two
            checkpoints are the second stage's.
    """
    two = len(set("".join(stages))) > 1
    examples = len(stages)
    with seeded(7):
        model = TinyConvNet().double()
        states = {}
        for name in ("c1", "c2", "c3", "c4"):
            states[name] = {
                key: value + 0.3 * torch.randn_like(value)
                for key, value in model.state_dict().items()
            }
        images = torch.randn(examples, 1, 5, 5, dtype=torch.float64)
        labels = torch.randint(3, (examples,))
        query_images = torch.randn(3, 1, 5, 5, dtype=torch.float64)
        query_labels = torch.randint(3, (3,))
    records = [
        CheckpointRecord(
            id=name,
            step=10 * (index + 1),
            stage="b" if two and index > 1 else "a",
            learning_rate=0.05,
            momentum=0.5,
            weight_decay=0.03,
        )
        for index, name in enumerate(states)
    ]
    return Case(
        model=model,
        states=states,
        records=records,
        images=images,
        labels=labels,
        ids=tuple(f"example-{i}" for i in range(examples)),
        stages=tuple(stages),
        query_images=query_images,
        query_labels=query_labels,
    )


def wide_case(stages: str = 48 * "a", *, positions: int = 1) -> Case:
    """Return the checkpoints of a network with layers wide enough for low-rank sums.

    Args:
        stages: One letter an example.
        positions: At how many the second layer is used.
    """
    case = tiny_case(stages)
    with seeded(8):
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(25, 64 * positions),
            nn.ReLU(),
            nn.Unflatten(1, (positions, 64)),
            nn.Linear(64, 64),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64 * positions, 3),
        ).double()
        states = {
            name: {
                key: value + 0.05 * torch.randn_like(value)
                for key, value in model.state_dict().items()
            }
            for name in case.states
        }
        query_images = torch.randn(6, 1, 5, 5, dtype=torch.float64)
        query_labels = torch.randint(3, (6,))
    return replace(
        case, model=model, states=states, query_images=query_images, query_labels=query_labels
    )


class Slopes(nn.Module):
    """A PReLU whose slopes are bounded."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, values: Tensor) -> Tensor:
        return F.prelu(values, self.weight.tanh())


class ScaledConvNet(TinyConvNet):
    """The same with an activation of its own parameters, and a head whose bias is no module's."""

    def __init__(self, *, bare: bool = True) -> None:
        super().__init__()
        self.slopes = Slopes(4)
        if bare:
            self.head = nn.Linear(16, 3, bias=False)
            self.head_bias = nn.Parameter(torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.slopes(self.second(self.activation(self.first(images))))
        return self.head(hidden.flatten(1)) + getattr(self, "head_bias", 0)


def bare_case(stages: str = 8 * "a", *, bare: bool = True) -> Case:
    """Return a run of a network with bare parameters; without, the head's bias is its own."""
    case = tiny_case(stages)
    with seeded(9):
        model = ScaledConvNet().double()
        states = {
            name: {
                key: value + 0.3 * torch.randn_like(value)
                for key, value in model.state_dict().items()
            }
            for name in case.states
        }
    if bare:
        return replace(case, model=model, states=states)
    names = {"head_bias": "head.bias"}
    renamed = {
        name: {names.get(key, key): value for key, value in state.items()}
        for name, state in states.items()
    }
    return replace(case, model=ScaledConvNet(bare=False).double(), states=renamed)


@dataclass(frozen=True)
class Outcome:
    """What a run over the core gave.

    Attributes:
        scores: [segments, Q + 1, N], the last query being the mean of all.
        self_influence: [segments, N].
        plan: What was evaluated.
        checks: How far the scores are from the exact filters'.
    """

    scores: Tensor
    self_influence: Tensor
    plan: AttributionPlan
    checks: Sequence[ScoreCheck]


def gradient_source(
    case: Case,
    task: ClassificationTask,
    *,
    batch_size: int = 3,
    cache: Cache | None = None,
    seed: int = 5,
) -> GradientEngine:
    """Return the gradients of a case."""
    items = list(zip(case.images, case.labels, strict=True))
    training = Examples(items, case.ids, task.collate)
    batch = training.batch([0, 1], CPU)
    return GradientEngine(
        model=case.model,
        objective=task,
        coverage=find_layers(
            case.model, lambda: task.forward(case.model, batch), examples=2, bare=1000
        ),
        training=training,
        load_weights=case.states.__getitem__,
        cache=KeepsEverything() if cache is None else cache,
        batch_size=batch_size,
        seed=seed,
    )


def segment_filter(method: str, **settings: Any) -> SegmentFilter:
    """Return a method's filter of one segment; arguments as of `FilterSettings`."""
    return METHODS[method].make_filter(FilterSettings(**settings))


def case_plan(
    case: Case,
    method: str,
    *,
    segments: int,
    damping: float | None = None,
    curvature_sample: Callable[[Tensor], Tensor] | None = None,
) -> AttributionPlan:
    """Return the plan of a method for a case."""
    runs = [list(own) for _, own in groupby(case.records, key=lambda record: record.run)]
    return AttributionPlan.of(
        method,
        number_segments(runs, lambda records: partition(records, segments)),
        case.stage_examples(),
        damping=damping,
        curvature_sample=curvature_sample,
    )


def attribute(
    case: Case,
    method: str = "source",
    *,
    task: ClassificationTask | None = None,
    segments: int = 2,
    batch_size: int = 3,
    cache: Cache | None = None,
    damping: float | None = None,
    curvature_sample: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = 1e-3,
    precision: str = "float32",
    settings_of: Callable[[str], object] | None = None,
) -> Outcome:
    """Run the core over a case, from the covariances to the scores."""
    task = ClassificationTask() if task is None else task
    engine = gradient_source(case, task, batch_size=batch_size, cache=cache)
    if settings_of is not None:
        run = partial(case.model, case.images[:2])
        found = find_layers(case.model, run, settings_of, examples=2, bare=1000)
        engine = replace(engine, coverage=found)
    engine.unit_norm = METHODS[method].unit_norm
    plan = case_plan(
        case,
        method,
        segments=segments,
        damping=damping,
        curvature_sample=curvature_sample,
    )
    covariances = {point.id: covariances_at(engine, point) for point in plan.points}
    curvatures = [
        fit_segment(engine, planned, covariances) if planned.filter.uses_curvature else None
        for planned in plan.segments
    ]
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, [f"query-{i}" for i in range(len(items))], task.collate)
    settings = ScoreSettings(
        solve=SolveSettings(tolerance=1e-13, max_iterations=300),
        projection_dimension=20,
        tolerance=tolerance,
        precision=precision,
    )
    scorer = MeanScorer.of(
        QueryPreparation(method, engine, queries, settings),
        plan,
        curvatures,
        higher_is_better=task.measurement_higher_is_better,
    )
    blocks = engine.blocks()
    return Outcome(
        torch.cat([scorer.scores(block).shares for block in blocks], dim=2),
        torch.cat([scorer.scores(block).self_influence for block in blocks], dim=1),
        plan,
        scorer.checks,
    )


def covariances_at(engine: GradientEngine, point: EvaluationPoint) -> LayerCovariances:
    """Return the sums of A and G over all blocks of a point."""
    running = RunningCovariances()
    for block in engine.blocks():
        if len(point.rows(block)):
            running.add(engine.extract(point, block).covariances)
    return running.sums()
