"""What takes passes of every example alone, against one autograd call an example."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.machine.nested import to_dtype
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.tasks import ClassificationTask
from tests.core.layers.checks import check_all_counted
from tests.tiny import CPU, KeepsNothing, assert_close, bare_case, gradient_source, seeded

EVERYTHING = torch.arange(8)
POINT = EvaluationPoint("c1", ("c1",), EVERYTHING, EVERYTHING)
BARE = ("head_bias", "slopes.weight")


def expected(engine: GradientEngine, examples: Examples, name: str, parameter: str) -> Tensor:
    """Return the gradient of every example's loss, [N, size]."""
    model, task = engine.model_at(POINT), engine.objective
    rows = []
    for index in range(len(examples)):
        batch = examples.batch([index], CPU)
        outputs = task.forward(model, batch)
        if name == "sampled_loss":
            seeds = examples.seeds([index], seed=engine.seed, purpose="c1")
            loss = task.sampled_loss(outputs, ExampleGenerator.for_examples(seeds))
        else:
            loss = getattr(task, name)(outputs, batch)
        rows += torch.autograd.grad(
            loss.sum(),
            [model.get_parameter(parameter)],
            materialize_grads=True,
            allow_unused=True,
        )
    return torch.stack(rows).flatten(1)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_training_gradients_equal_the_per_example_loop(batch_size):
    engine = gradient_source(bare_case(), ClassificationTask(), batch_size=batch_size)
    assert tuple(layer.name for layer in engine.coverage.alone) == BARE
    check_all_counted(engine.coverage, engine.model)
    assert engine.coverage.share == 1.0
    for name in BARE:
        passed = [engine.extract(POINT, block) for block in engine.blocks()]
        given = torch.cat([one.gradients[name].dense() for one in passed])
        sampled = torch.cat([one.sampled[name].dense() for one in passed])
        assert_close(given[:, 0, :, 0], expected(engine, engine.training, "train_loss", name))
        assert_close(sampled[:, 0, :, 0], expected(engine, engine.training, "sampled_loss", name))
        alone = engine.compute(POINT, EVERYTHING, sampled=True)
        assert_close(alone[name].dense(), sampled)


def test_query_gradients_equal_the_per_example_loop():
    case, task = bare_case(), ClassificationTask()
    engine = gradient_source(case, task)
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, ["q1", "q2", "q3"], task.collate)
    measured, losses = engine.query_gradients(queries, POINT, Block(0, 3))
    for name in BARE:
        found = measured[name].dense()[:, 0, :, 0], losses[name].dense()[:, 0, :, 0]
        assert_close(found[0], expected(engine, queries, "measurement", name))
        assert_close(found[1], expected(engine, queries, "train_loss", name))


def test_rounded_and_exact_passes_know_them_too():
    case = bare_case()
    case.model.float()
    case = replace(
        case,
        images=case.images.float(),
        states={name: to_dtype(state, torch.float32) for name, state in case.states.items()},
    )
    engine = gradient_source(case, ClassificationTask(), batch_size=8)
    exact = engine.exactly(doubled=True)
    wanted = exact.compute(POINT, EVERYTHING, sampled=False)
    plain = engine.compute(POINT, EVERYTHING, sampled=False)
    rounded = replace(engine, precision="bfloat16").compute(POINT, EVERYTHING, sampled=False)
    for name in BARE:
        assert wanted[name].dense().dtype == torch.float64
        assert rounded[name].dense().dtype == torch.float32
        assert_close(plain[name].dense().double(), wanted[name].dense(), tolerance=1e-5)
        assert_close(rounded[name].dense().double(), wanted[name].dense(), tolerance=0.05)
        assert float((rounded[name].dense() - plain[name].dense()).abs().max()) > 0


class Routed(nn.Module):
    """Two experts, each example by one of them, and a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, 4, 3))
        self.first = nn.Parameter(torch.randn(4))
        self.second = nn.Parameter(torch.randn(4))
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, values: Tensor) -> Tensor:
        rows = []
        for row in values:
            if bool(row.sum() > 0):
                rows.append((self.first * row) @ self.experts[0])
            else:
                rows.append((self.second * row) @ self.experts[1])
        return torch.stack(rows)


def engine_of(model: nn.Module, values: Tensor, labels: Sequence[int]) -> GradientEngine:
    task = ClassificationTask()
    items = [(value, torch.tensor(label)) for value, label in zip(values, labels, strict=True)]
    training = Examples(items, [str(i) for i in range(len(items))], task.collate)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return GradientEngine(
        model=model,
        objective=task,
        coverage=find_layers(model, lambda: model(values), examples=len(values), bare=100),
        training=training,
        load_weights={"c1": state}.__getitem__,
        cache=KeepsNothing(),
        batch_size=2,
        seed=0,
    )


def test_what_an_example_does_not_use_has_a_gradient_of_0():
    """No known layer at all, code that depends on the data, and an example a route."""
    with seeded(3):
        model = Routed().double().eval()
        values = torch.randn(6, 4, dtype=torch.float64)
    engine = engine_of(model, values, [0, 1, 2, 0, 1, 2])
    names = {one.name: one.reason for one in engine.coverage.unattributed}
    assert list(names) == ["unused"]
    assert names["unused"].startswith("the outputs of the first examples do not depend on it")
    found = engine.compute(POINT, torch.arange(6), sampled=False)
    upper = values.sum(1) > 0
    assert 0 < int(upper.sum()) < 6
    assert not found["first"].dense()[~upper].any()
    assert bool(found["first"].dense()[upper].flatten(1).any(1).all())
    for name in ("experts", "first", "second"):
        whole = expected_of(engine, name)
        assert_close(found[name].dense()[:, 0, :, 0], whole)


def expected_of(engine: GradientEngine, name: str) -> Tensor:
    model = engine.model
    rows = []
    for value, label in engine.training.items:
        loss = -model(value.unsqueeze(0))[0].log_softmax(0)[label]
        (one,) = torch.autograd.grad(
            loss, [model.get_parameter(name)], materialize_grads=True, allow_unused=True
        )
        rows.append(one.flatten())
    return torch.stack(rows)


def weight_norm(module: nn.Module) -> nn.Module:
    return parametrizations.weight_norm(module)


def spectral_norm(module: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(module)


def pruned(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", amount=0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", [weight_norm, spectral_norm, pruned, torch.nn.utils.weight_norm])
def test_originals_of_weights_are_attributed(change):
    with seeded(4):
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), change(nn.Linear(3, 3)))
        model = model.double().eval()
        values = torch.randn(4, 4, dtype=torch.float64)
    engine = engine_of(model, values, [0, 1, 2, 0])
    assert engine.coverage.unattributed == ()
    assert {layer.name for layer in engine.coverage.alone} == {
        name for name, _ in model.named_parameters() if name.startswith("2.")
    }
    found = engine.compute(POINT, torch.arange(4), sampled=False)
    for layer in engine.coverage.alone:
        assert_close(found[layer.name].dense()[:, 0, :, 0], expected_of(engine, layer.name))


class Graphs(nn.Module):
    """Batches of graphs: nodes of all of them in one dimension, as many as each has."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(5, 4)
        self.nodes = nn.Linear(4, 4)
        self.normal = nn.LayerNorm(4)
        self.pixels = nn.Conv1d(1, 2, 3, padding=1)
        self.experts = nn.ModuleList(nn.Linear(8, 3, bias=bias) for bias in (True, False))
        self.head = nn.Linear(3, 3)

    def forward(self, kinds: Tensor, owner: Tensor, examples: int) -> Tensor:
        hidden = self.normal(self.nodes(self.kinds(kinds)).tanh())
        hidden = self.pixels(hidden.unsqueeze(1)).flatten(1)
        chosen = kinds % 2
        rows = hidden.new_zeros(len(kinds), 3)
        for place, expert in enumerate(self.experts):
            own = chosen == place
            if bool(own.any()):
                rows = rows.index_put((own.nonzero()[:, 0],), expert(hidden[own]))
        pooled = rows.new_zeros(examples, 3).index_add(0, owner, rows)
        return self.head(pooled.tanh())


class GraphTask(ClassificationTask):
    def collate(self, items):
        owner = [torch.full_like(nodes, place) for place, (nodes, _) in enumerate(items)]
        labels = torch.stack([label for _, label in items])
        return (torch.cat([nodes for nodes, _ in items]), torch.cat(owner)), labels

    def forward(self, model, batch):
        return model(*batch[0], len(batch[1]))


GRAPHS = ([0, 2, 4], [1, 3], [0, 1, 2, 3, 4], [2], [3, 3, 1, 0], [4, 1])
"""Of the first only the first expert has nodes, of the second only the second."""


@pytest.mark.parametrize("batch_size", [1, 4])
def test_layers_that_see_what_is_no_example_equal_the_per_example_loop(batch_size):
    with seeded(5):
        model = Graphs().double().eval()
    task = GraphTask()
    items = [(torch.tensor(nodes), torch.tensor(i % 3)) for i, nodes in enumerate(GRAPHS)]
    training = Examples(items, [str(i) for i in range(6)], task.collate)
    first, several = (training.batch(range(n), CPU) for n in (2, 6))
    coverage = find_layers(
        model,
        lambda: task.forward(model, first),
        examples=2,
        further=[(lambda: task.forward(model, several), 6)],
        bare=0,
    )
    assert coverage.unattributed == ()
    names = ["kinds", "nodes", "normal", "pixels", "experts.0", "experts.1"]
    assert [layer.name for layer in coverage.alone] == names
    state = {key: value.clone() for key, value in model.state_dict().items()}
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=coverage,
        training=training,
        load_weights={"c1": state}.__getitem__,
        cache=KeepsNothing(),
        batch_size=batch_size,
        seed=0,
    )
    rows = torch.arange(6)
    point = EvaluationPoint("c1", ("c1",), rows, rows)
    passed = [engine.extract(point, block, keep=False) for block in engine.blocks()]
    for layer in coverage.layers:
        for loss, kind in (("train_loss", "gradients"), ("sampled_loss", "sampled")):
            found = torch.cat([getattr(one, kind)[layer.name].dense() for one in passed])
            wanted = {
                name: expected(engine, training, loss, name).reshape(
                    6, *model.get_parameter(name).shape
                )
                for name in layer.parameters
            }
            matrices = torch.stack(
                [layer.weight_matrix({k: v[row] for k, v in wanted.items()}) for row in range(6)]
            )
            assert_close(found, matrices)
    sums = RunningCovariances()
    for one in passed:
        sums.add(one.covariances)
    found = sums.sums()["experts.0"]
    assert found.examples == 6
    # Whatever the batches, positions that a loss does not reach have no say: nodes of the expert.
    ones = found.activation[0, -1, -1]
    assert int(ones) == sum(kind % 2 == 0 for nodes in GRAPHS for kind in nodes)
