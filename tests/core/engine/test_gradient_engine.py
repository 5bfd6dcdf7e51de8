"""Blocks of gradients: what is refused, what a point's weights are, what the cache is told."""

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import RunningCovariances
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.results import BlockSignals, join_parts
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.tiny import (
    CPU,
    KeepsEverything,
    KeepsNothing,
    assert_close,
    attribute,
    bare_case,
    gradient_source,
    tiny_case,
)

EVERYTHING = torch.arange(8)
POINT = EvaluationPoint("c1", ("c1",), EVERYTHING, EVERYTHING)


def averages(name: str) -> ClassificationTask:
    """Return a task one of whose losses is averaged over the batch, a common mistake."""

    class Averages(ClassificationTask):
        pass

    def averaged(self, outputs: Tensor, argument: object) -> Tensor:
        return getattr(ClassificationTask, name)(self, outputs, argument).mean()

    setattr(Averages, name, averaged)
    return Averages()


@pytest.mark.parametrize("name", ["train_loss", "sampled_loss", "measurement"])
def test_a_scalar_loss_is_refused_by_name(name):
    expected = rf"^{name} returned shape \[\] for a batch of .* reduction='none'"
    with pytest.raises(InputError, match=expected):
        attribute(tiny_case(), task=averages(name))


@pytest.mark.parametrize("name", ["train_loss", "measurement"])
def test_a_scalar_loss_of_the_queries_is_refused_by_name(name):
    case = tiny_case()
    engine = gradient_source(case, averages(name))
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, ["q1", "q2", "q3"], ClassificationTask().collate)
    with pytest.raises(InputError, match=rf"^{name} returned shape \[\]"):
        engine.query_gradients(queries, POINT, Block(0, 3))


def run_model(model: nn.Module, inputs: Tensor) -> None:
    """Extract one block of two examples of `inputs`, [2, …], with classes 0 and 1."""
    model = model.double()
    task = ClassificationTask()
    items = [(values, torch.tensor(label)) for label, values in enumerate(inputs)]
    training = Examples(items, ["one", "two"], task.collate)
    batch = training.batch([0, 1], CPU)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=find_layers(model, lambda: model(batch[0])),
        training=training,
        load_weights={"c1": state}.__getitem__,
        cache=KeepsNothing(),
        batch_size=2,
        seed=0,
    )
    point = EvaluationPoint("c1", ("c1",), torch.arange(2), torch.arange(2))
    engine.extract(point, Block(0, 2))


def test_an_input_changed_in_place_is_refused():
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, values: Tensor) -> Tensor:
            hidden = self.first(values) * 1
            outputs = self.second(hidden)
            hidden.zero_()
            return outputs

    with pytest.raises(InputError, match=r"^second: its input was changed in place"):
        run_model(Overwrites(), torch.ones(2, 3, dtype=torch.float64))


def test_a_layer_whose_first_dimension_is_not_the_batch_is_refused():
    """A sequence-first layer would have its positions taken for examples."""

    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.head(self.shared(values.transpose(0, 1)).tanh().mean(0))

    with pytest.raises(InputError, match="shared"):
        run_model(SequenceFirst(), torch.ones(2, 4, 3, dtype=torch.float64))


def test_the_weights_of_several_checkpoints_are_averaged():
    case = tiny_case()
    engine = gradient_source(case, ClassificationTask())
    point = EvaluationPoint("c1+c3", ("c1", "c3"), EVERYTHING, EVERYTHING)
    found = {key: value.clone() for key, value in engine.model_at(point).state_dict().items()}
    for key, value in found.items():
        assert_close(value, (case.states["c1"][key] + case.states["c3"][key]) / 2)
    assert not engine.model_at(point).training


def test_a_counter_among_the_weights_is_not_averaged():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    states = {}
    for steps, name in enumerate(("early", "late")):
        states[name] = {key: value.clone() for key, value in model.state_dict().items()}
        states[name]["1.num_batches_tracked"] += 3 + steps
    task = ClassificationTask()
    engine = GradientEngine(
        model=model,
        objective=task,
        coverage=find_layers(model.eval(), lambda: model(torch.zeros(1, 2))),
        training=Examples([], [], task.collate),
        load_weights=states.__getitem__,
        cache=KeepsNothing(),
        batch_size=1,
        seed=0,
    )
    nothing = torch.tensor([], dtype=torch.long)
    point = EvaluationPoint("mean", ("early", "late"), nothing, nothing)
    assert engine.model_at(point).state_dict()["1.num_batches_tracked"].item() == 4


def test_the_signals_are_the_losses_and_the_norm_of_the_whole_gradient():
    case, task = tiny_case(), ClassificationTask()
    engine = gradient_source(case, task)
    signals = engine.extract(POINT, Block(3, 6)).signals
    assert signals.examples.tolist() == [3, 4, 5]
    model = engine.model_at(POINT)
    for row, example in enumerate((3, 4, 5)):
        log_p = model(case.images[example : example + 1])[0].log_softmax(0)
        own = log_p[case.labels[example]]
        squares = [
            gradient.square().sum()
            for gradient in torch.autograd.grad(-own, list(model.parameters()), retain_graph=True)
        ]
        assert_close(signals.loss[row], -own)
        assert_close(signals.measurement[row], own - (1 - own.exp()).log())
        # Every parameter of the tiny network is attributed.
        assert_close(signals.gradient_norm[row], torch.stack(squares).sum().sqrt())
        assert signals.described["predicted_label"][row] == str(int(log_p.argmax()))


def test_only_the_stages_own_examples_make_up_the_curvature():
    engine = gradient_source(tiny_case(), ClassificationTask())
    own = torch.tensor([1, 4, 5])
    extraction = engine.extract(EvaluationPoint("c1", ("c1",), EVERYTHING, own), Block(0, 5))
    alone = engine.extract(EvaluationPoint("c1", ("c1",), own, own), Block(0, 5))
    assert len(extraction.gradients["head"]) == 5
    found, expected = (RunningCovariances(one.covariances).sums() for one in (extraction, alone))
    for name, sums in expected.items():
        assert found[name].examples == sums.examples == 2
        assert_close(found[name].activation, sums.activation)
        assert_close(found[name].pseudo_gradient, sums.pseudo_gradient)
        assert_close(extraction.sampled[name].dense(), alone.sampled[name].dense())


def test_a_block_holds_the_bytes_it_says():
    cache = KeepsEverything()
    engine = gradient_source(tiny_case(), ClassificationTask(), cache=cache)
    extraction = engine.extract(POINT, Block(0, 3))
    (kept,) = cache.kept.values()
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    assert extraction.bytes_per_example * 3 == held


def test_extracting_moves_no_weight_and_keeps_no_gradient():
    case = tiny_case()
    engine = gradient_source(case, ClassificationTask())
    engine.extract(POINT, Block(0, 8))
    for key, value in engine.model_at(POINT).state_dict().items():
        assert torch.equal(value, case.states["c1"][key])
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_queries_are_measured_by_a_forward_pass_alone():
    case = tiny_case()
    task = ClassificationTask()
    engine = gradient_source(case, task)
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, ["q1", "q2", "q3"], task.collate)
    signals = engine.query_signals(queries, POINT, Block(0, 3))
    assert (engine.passes.forward, engine.passes.backward) == (3, 0)
    batch = queries.batch([0, 1, 2], CPU)
    with torch.no_grad():
        outputs = task.forward(engine.model_at(POINT), batch)
        assert_close(signals.measurement, task.measurement(outputs, batch))
        assert_close(signals.loss, task.train_loss(outputs, batch))
    assert signals.gradient_norm is None


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor])
def test_what_a_task_describes_is_joined_as_it_was_given(kind):
    """Where a batch was halved for want of memory."""
    parts = [
        BlockSignals(
            rows, rows.float(), rows.float(), None, {"label": kind(rows.tolist())}, rows > 0
        )
        for rows in (torch.tensor([3, 5]), torch.tensor([8, 9]), torch.tensor([2]))
    ]
    joined = join_parts(parts)
    assert [int(one) for one in joined.described["label"]] == joined.examples.tolist()
    assert joined.examples.tolist() == [3, 5, 8, 9, 2]
    assert joined.gradient_norm is None


@pytest.mark.parametrize("cache", [KeepsNothing, KeepsEverything])
def test_an_engine_of_some_layers_has_their_gradients_alone_and_fills_no_cache(cache):
    case = tiny_case()
    whole = gradient_source(case, ClassificationTask())
    kept = cache()
    engine = gradient_source(case, ClassificationTask(), cache=kept)
    chosen = [layer for layer in engine.coverage.layers if layer.name != "second"]
    part, block = engine.of_layers(chosen), Block(0, 8)
    for rounds in range(2):
        found = part.gradients(POINT, block), part.sampled_gradients(POINT, block)
        expected = whole.gradients(POINT, block), whole.sampled_gradients(POINT, block)
        for some, every in zip(found, expected, strict=True):
            assert sorted(some) == ["first", "head"]
            for name, one in some.items():
                assert_close(one.dense(), every[name].dense())
        if rounds == 0:
            assert not getattr(kept, "kept", None)
            assert engine.passes.forward == 16
            engine.extract(POINT, block)


def test_an_engine_of_some_layers_of_some_layers_fills_no_cache():
    kept = KeepsEverything()
    engine = gradient_source(tiny_case(), ClassificationTask(), cache=kept)
    part = engine.of_layers(engine.coverage.layers[:1])
    part.of_layers(part.coverage.layers).gradients(POINT, Block(0, 8))
    assert not kept.kept
    engine.of_layers(engine.coverage.layers).gradients(POINT, Block(0, 8))
    assert kept.kept


@pytest.mark.parametrize(("make_case", "draws"), [(tiny_case, 1), (tiny_case, 2), (bare_case, 1)])
@pytest.mark.parametrize("curved", [8, 3])
def test_an_engine_of_some_layers_adds_their_covariances_alone(make_case, draws, curved):
    """In the same bits where all examples make up the curvature, or else up to rounding."""
    engine = gradient_source(make_case(), ClassificationTask(), cache=KeepsNothing())
    engine.draws = draws
    point = EvaluationPoint("c1", ("c1",), EVERYTHING, EVERYTHING[:curved])
    expected = RunningCovariances(engine.extract(point, Block(0, 8)).covariances).sums()
    for layer in engine.coverage.layers:
        part = engine.of_layers([layer])
        before = engine.passes.backward
        found = RunningCovariances(part.covariances(point, Block(0, 8))).sums()
        twice = 2 if layer.alone else 1
        assert engine.passes.backward - before == twice * draws * curved
        assert list(found) == [layer.name]
        one, other = found[layer.name].tensors(), expected[layer.name].tensors()
        for name, tensor in one.items():
            if curved == 8:
                assert torch.equal(tensor, other[name])
            else:
                assert_close(tensor, other[name])


def test_what_is_kept_of_other_examples_is_computed_again():
    case, task = tiny_case(), ClassificationTask()
    kept = gradient_source(case, task, batch_size=4)
    kept.extract(POINT, Block(0, 4))
    fewer = EvaluationPoint("c1", ("c1",), EVERYTHING[EVERYTHING != 2], EVERYTHING)
    expected = gradient_source(case, task, cache=KeepsNothing()).gradients(fewer, Block(0, 4))
    for name, found in kept.gradients(fewer, Block(0, 4)).items():
        assert len(found) == 3
        assert_close(found.dense(), expected[name].dense())
