"""Lower precisions: where they hold, and that their error is the one that is said."""

import logging
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from sourcetrace.core.engine import gradient_engine as gradient_source_module
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.methods import precision_check, scorers
from sourcetrace.core.methods.precision_check import PrecisionError
from sourcetrace.core.methods.scorers import FrameScorer
from sourcetrace.core.model.examples import Block, Examples
from sourcetrace.core.model.precision import products_in
from sourcetrace.core.responses import score_check
from sourcetrace.tasks import ClassificationTask
from tests.core.methods.test_transformer import transformer_case
from tests.tiny import (
    CPU,
    KeepsNothing,
    attribute,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    tiny_case,
    wide_case,
)

GPU = torch.device("cuda")


def flags():
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


def test_cudnn_adds_up_in_one_order_and_the_users_flags_go_back(monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    with products_in("float32", GPU):
        assert [cudnn.deterministic, cudnn.benchmark] == [True, False]
    assert [cudnn.deterministic, cudnn.benchmark] == [False, True]


def single(case):
    """Return a case in float32."""

    def cast(values):
        return values.float() if values.is_floating_point() else values

    states = {
        name: {key: cast(value) for key, value in state.items()}
        for name, state in case.states.items()
    }
    images, queries = cast(case.images), cast(case.query_images)
    return replace(
        case, model=case.model.float(), states=states, images=images, query_images=queries
    )


CASES = {"convolutions": tiny_case, "transformer": transformer_case}


def source_of(case, precision, task=None):
    task = task or ClassificationTask()
    plain = gradient_source(case, task, cache=KeepsNothing())
    return GradientEngine(
        model=case.model,
        objective=task,
        coverage=plain.coverage,
        training=plain.training,
        load_weights=case.states.__getitem__,
        cache=KeepsNothing(),
        batch_size=3,
        seed=5,
        precision=precision,
    )


def point_of(case):
    return case_plan(case, "source", segments=1).points[-1]


def test_products_are_rounded_where_it_is_said_alone_and_the_flags_go_back():
    before = flags()
    with products_in("tf32", GPU):
        assert flags() == [True, True]
        with suppress(ZeroDivisionError), products_in("bfloat16", GPU):
            assert flags() == [False, False]
            raise ZeroDivisionError
        assert flags() == [True, True]
    assert flags() == before
    with products_in("tf32", CPU):
        assert flags() == before


NEW = """
import torch
from sourcetrace.core.model.precision import products_in
cudnn = torch.backends.cudnn
flags = torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn
for one, value in zip(flags, ("tf32", "ieee", "tf32")):
    one.fp32_precision = value
for precision in ("float32", "tf32"):
    with products_in(precision, torch.device("cuda")):
        print(*(one.fp32_precision for one in flags))
print(*(one.fp32_precision for one in flags))
"""

OLD = """
import torch
from sourcetrace.core.model.precision import products_in
torch.set_float32_matmul_precision("medium")
for precision in ("float32", "tf32"):
    with products_in(precision, torch.device("cuda")):
        print(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
print(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (NEW, ["ieee ieee ieee", "tf32 tf32 tf32", "tf32 ieee tf32"]),
        (OLD, ["highest False", "high True", "medium True"]),
    ],
)
def test_the_flags_that_the_users_code_has_set_come_back(code, expected):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == expected


class Watching(ClassificationTask):
    """Notes the flags in which the model runs, and what the losses get."""

    def __init__(self):
        super().__init__()
        self.ran, self.got = [], set()

    def forward(self, model, batch):
        self.ran.append(torch.is_autocast_enabled("cpu"))
        return super().forward(model, batch)

    def train_loss(self, outputs, batch):
        self.got.add((outputs.dtype, torch.is_autocast_enabled("cpu")))
        return super().train_loss(outputs, batch)


@pytest.fixture
def asked(monkeypatch):
    """The precisions that were asked for, in turn; products in tf32 have rounded factors."""
    seen, rounding = [], []

    @contextmanager
    def noted(precision, device):
        seen.append((precision, device))
        rounding.append(precision)
        yield
        rounding.pop()

    for module in (gradient_source_module, precision_check, scorers, score_check):
        monkeypatch.setattr(module, "products_in", noted)
    seen_and_now = SimpleNamespace(seen=seen, now=lambda: rounding[-1] if rounding else None)
    return seen_and_now


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_all_passes_run_in_their_precision_and_losses_in_float32(precision, asked):
    case, task = single(tiny_case()), Watching()
    engine, point = source_of(case, precision, task), point_of(case)
    task.ran.clear()
    engine.extract(point, Block(0, 3))
    engine.gradients(point, Block(0, 3))
    queries = Examples(list(zip(case.query_images, case.query_labels, strict=True)),
                       ["a", "b", "c"], task.collate)  # fmt: skip
    engine.query_gradients(queries, point, Block(0, 2))
    assert task.ran == [precision == "bfloat16"] * 3
    assert asked.seen == [(precision, CPU)] * 3
    assert task.got == {(torch.float32, False)}


@pytest.mark.parametrize("make_case", CASES.values(), ids=CASES)
def test_passes_in_bfloat16_are_off_by_what_is_said_and_leave_float32(make_case):
    case = single(make_case())
    engine, point = source_of(case, "bfloat16"), point_of(case)
    measured = PrecisionError.of_passes(engine, point)
    error = measured.relative
    assert measured.against == "float64"
    assert 1e-3 < error < 0.1
    assert PrecisionError.of_passes(source_of(case, "float32"), point).relative < 1e-5
    rounded, whole = (
        one.extract(point, Block(0, 8)) for one in (engine, source_of(case, "float32"))
    )
    off = torch.stack(
        [
            (rounded.gradients[name].dense() - layer.dense()).square().sum()
            for name, layer in whole.gradients.items()
        ]
    ).sum()
    size = torch.stack([one.dense().square().sum() for one in whole.gradients.values()]).sum()
    assert error / 3 < float((off / size).sqrt()) < 3 * error
    for layer in rounded.gradients.values():
        assert layer.dense().dtype == torch.float32


def test_losses_get_float32_from_outputs_of_any_make():
    @dataclass
    class Outputs:
        logits: torch.Tensor

    class Wrapped(Watching):
        def forward(self, model, batch):
            return Outputs(super().forward(model, batch))

        def train_loss(self, outputs, batch):
            return super().train_loss(outputs.logits, batch)

        def sampled_loss(self, outputs, generator):
            return super().sampled_loss(outputs.logits, generator)

    case, task = single(tiny_case()), Wrapped()
    source_of(case, "bfloat16", task).compute(point_of(case), torch.arange(2), sampled=False)
    assert task.got == {(torch.float32, False)}


def test_a_task_that_cannot_run_in_float64_is_held_against_float32(caplog):
    class Narrow(ClassificationTask):
        def forward(self, model, batch):
            assert batch[0].dtype == torch.float32
            return super().forward(model, batch)

    case = single(tiny_case())
    with caplog.at_level(logging.WARNING):
        error = PrecisionError.of_passes(source_of(case, "bfloat16", Narrow()), point_of(case))
    assert "passes are held against float32" in caplog.text
    exact = PrecisionError.of_passes(source_of(case, "bfloat16"), point_of(case))
    assert (error.against, exact.against) == ("float32", "float64")
    assert error.relative == pytest.approx(exact.relative, rel=0.1)


def test_the_error_of_the_curvature_is_that_of_its_products(monkeypatch, asked):
    case = single(tiny_case())
    engine = source_of(case, "float32")
    plan = case_plan(case, "source", segments=1)
    planned = plan.segments[0]
    sums = {point.id: covariances_at(engine, point) for point in planned.points}
    fitted = fit_segment(engine, planned, sums)
    assert PrecisionError.of_curvature(engine, planned, fitted, precision="tf32").relative < 1e-5
    true = FactoredGradient.rotated_squares

    def rounded(gradient, *bases):
        off = 1.01 if asked.now() == "tf32" else 1.0
        return off * true(gradient, *bases)

    monkeypatch.setattr(FactoredGradient, "rotated_squares", rounded)
    layers = engine.compute(planned.points[-1], planned.examples[:1], sampled=True).values()
    assert any(isinstance(layer, FactoredGradient) for layer in layers)
    error = PrecisionError.of_curvature(engine, planned, fitted, precision="tf32").relative
    assert 1e-3 < error <= 0.0101
    assert PrecisionError.of_curvature(engine, planned, fitted, precision="float32").relative < 1e-5


def test_scores_in_tf32_are_checked_and_multiplied_in_it(asked, monkeypatch):
    found = attribute(wide_case(), precision="tf32")
    (check,) = found.checks
    assert check.precision == "tf32"
    assert check.error <= check.tolerance
    assert ("tf32", CPU) in asked.seen
    now = []
    responses = SimpleNamespace(scores=lambda _: now.append(asked.now()))
    monkeypatch.setattr(scorers.BlockGradients, "of", lambda *_: None)
    for precision in ("float32", "tf32"):
        engine = SimpleNamespace(device=CPU, like=None)
        FrameScorer(engine, None, (), responses, precision).scores(
            Block(0, 1), self_influence=False
        )
    assert now == ["float32", "tf32"]


def test_scores_that_tf32_would_spoil_are_multiplied_in_float32(asked, monkeypatch):
    true = score_check._scores

    def spoiled(*arguments):
        return [1.1 * one if asked.now() == "tf32" else one for one in true(*arguments)]

    monkeypatch.setattr(score_check, "_scores", spoiled)
    (check,) = attribute(wide_case(), precision="tf32").checks
    assert check.precision == "float32"
    assert check.refused == pytest.approx(0.1, rel=0.05)
