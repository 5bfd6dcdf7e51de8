"""Several sampled labels an example: the expectation over labels itself, whatever the seed."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

from sourcetrace.core.engine import draws
from sourcetrace.core.engine.draws import choose_draws
from sourcetrace.core.engine.samples import sample_gradients
from sourcetrace.core.gradients.per_example import Gradients
from sourcetrace.core.model.examples import Block, EvaluationPoint
from sourcetrace.errors import InputError
from sourcetrace.tasks import BinaryTask, ClassificationTask, RegressionTask, TaskBase, signs
from tests.tiny import (
    KeepsEverything,
    KeepsNothing,
    assert_close,
    case_plan,
    covariances_at,
    fit_segment,
    gradient_source,
    tiny_case,
)

EVERYTHING = torch.arange(8)
POINT = EvaluationPoint("c1", ("c1",), EVERYTHING, EVERYTHING[:6])


def rows_of(gradients: Gradients) -> Tensor:
    return torch.cat([gradients[name].dense().flatten(1) for name in sorted(gradients)], 1)


def moment_over_labels(engine, examples: Tensor) -> Tensor:
    """Return Σ_i Σ_y p_y g_y g_yᵀ of these examples, by a backward pass a label, [P, P]."""
    model = engine.model_at(POINT)
    images, _ = engine.training.batch(examples.tolist(), engine.device)
    p = model(images).softmax(1).detach()
    total = 0
    for label in range(p.shape[1]):
        labels = torch.full((len(examples),), label)

        class Given(ClassificationTask):
            def train_loss(self, outputs, batch, labels=labels):
                return F.cross_entropy(outputs, labels[: len(outputs)], reduction="none")

        gradients = rows_of(
            replace(engine, objective=Given()).compute(POINT, examples, sampled=False)
        )
        total = total + gradients.T @ (p[:, label : label + 1] * gradients)
    return total


@pytest.mark.parametrize("cache", [KeepsEverything, KeepsNothing])
def test_four_draws_of_three_classes_are_the_expectation(cache):
    engine = gradient_source(tiny_case(), ClassificationTask(), cache=cache(), batch_size=8)
    engine.draws = 4
    extracted = engine.extract(POINT, Block(0, 8))
    expected = moment_over_labels(engine, POINT.curvature_examples)
    for gradients in (
        engine.sampled_gradients(POINT, Block(0, 8)),
        sample_gradients(engine, POINT, POINT.curvature_examples, sampled=True),
    ):
        rows = rows_of(gradients)
        assert len(rows) == 4 * 6
        assert_close(rows.T @ rows / 4, expected)
    assert len(rows_of(extracted.gradients)) == 8
    assert all(sum(one.examples for one in terms) == 24 for terms in extracted.covariances.values())


def test_the_curvature_does_not_depend_on_the_seed():
    case = tiny_case("a" * 8)
    plan = case_plan(case, "source", segments=1)
    fitted = []
    for seed, size, count in ((1, 8, 4), (2, 3, 4), (3, 8, 1)):
        engine = gradient_source(case, ClassificationTask(), batch_size=size)
        engine.seed, engine.draws = seed, count
        covariances = {point.id: covariances_at(engine, point) for point in plan.points}
        curvature = fit_segment(engine, plan.segments[0], covariances)
        fitted.append(torch.cat([block.eigenvalues.flatten() for block in curvature.values()]))
    assert_close(fitted[0], fitted[1])
    assert (fitted[0] - fitted[2]).norm() > 0.01 * fitted[0].norm()


def test_there_are_as_many_as_make_it_exact_where_that_is_affordable(monkeypatch):
    engine = gradient_source(tiny_case(), ClassificationTask())
    assert choose_draws(engine) == 4
    monkeypatch.setattr(draws, "_DRAWS", 8 * 4)
    assert choose_draws(engine) == 4
    monkeypatch.setattr(draws, "_DRAWS", 8 * 4 - 1)
    assert choose_draws(engine) == 1
    assert [choose_draws(engine, wanted) for wanted in (1, 2, 3, 4, 16)] == [1, 2, 3, 4, 4]


def test_two_draws_say_more_than_one():
    engine = gradient_source(tiny_case(), ClassificationTask(), batch_size=8)
    expected = moment_over_labels(engine, POINT.curvature_examples)
    errors = {}
    for engine.draws in (1, 2):
        found = []
        for engine.seed in range(8):
            drawn = sample_gradients(engine, POINT, POINT.curvature_examples, sampled=True)
            rows = rows_of(drawn)
            found.append((rows.T @ rows / engine.draws - expected).norm())
        errors[engine.draws] = torch.stack(found).mean()
    assert errors[2] < 0.8 * errors[1]


@pytest.mark.parametrize(("task", "expected"), [(BinaryTask, 1), (RegressionTask, 1)])
def test_one_output_needs_no_second_draw(task, expected):
    class Task(task):
        def forward(self, model, batch):
            return model(batch[0])[:, :1]

        def targets_of(self, batch):
            return batch[1] > 0

    assert choose_draws(gradient_source(tiny_case(), Task())) == expected


def test_a_task_that_draws_labels_has_one():
    class Drawn(ClassificationTask):
        def sampled_loss(self, outputs, generator):
            return F.cross_entropy(outputs, outputs.argmax(1), reduction="none")

    assert choose_draws(gradient_source(tiny_case(), Drawn())) == 1
    assert choose_draws(gradient_source(tiny_case(), Drawn()), 3) == 3


def test_examples_of_several_lengths_have_one_whatever_their_padding():
    class Tokens(TaskBase):
        """As many signs as an example has items, as a tagger of padded sequences draws."""

        def forward(self, model, batch):
            return model(batch[0])[:, :1].expand(-1, self.longest(batch))

        def longest(self, batch):
            return 1 + int(batch[1].max())

        def sampled_loss(self, outputs, generator):
            return (signs(generator, outputs.shape, like=outputs) * outputs).sum(1)

    class Padded(Tokens):
        def longest(self, batch):
            return 4

    assert choose_draws(gradient_source(tiny_case(), Padded())) == 4
    assert choose_draws(gradient_source(tiny_case(), Tokens())) == 1
    with pytest.raises(InputError, match="sampled_labels is 2, but examples differ"):
        choose_draws(gradient_source(tiny_case(), Tokens()), 2)
