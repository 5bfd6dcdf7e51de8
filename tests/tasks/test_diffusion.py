"""A diffusion task against its loss written out, draw by draw, in float64."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.gradients.per_example import Gradients
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.errors import InputError
from sourcetrace.tasks import DiffusionTask, NoiseSchedule
from tests.oracles.gauss_newton import gauss_newton_matrix
from tests.tasks.losses.checks import check_curvature
from tests.tiny import Case, assert_close, attribute, gradient_source, seeded, tiny_case

STEPS, DRAWS = 12, 3
EVERYTHING = torch.arange(8)


class Denoiser(nn.Module):
    """A convolution, a normalisation and linear layers; the timestep by an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.time = nn.Embedding(STEPS, 4)
        self.mix = nn.Linear(4, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        time = self.mix(self.time(timesteps)).tanh()
        hidden = self.norm(self.first(noisy)) + time[:, :, None, None]
        return self.last(hidden.tanh())


class Denoising(DiffusionTask):
    draws = DRAWS

    def __init__(self, prediction: Any = "epsilon", gamma: float | None = None) -> None:
        self.schedule = NoiseSchedule.cosine(STEPS, prediction=prediction)
        self.min_snr_gamma = gamma


TASKS = [Denoising(), Denoising("sample", 2.0), Denoising("v_prediction")]


def denoising_case() -> Case:
    case = tiny_case(8 * "a")
    with seeded(92):
        model = Denoiser().double()
        states = {
            name: {
                key: one + 0.2 * torch.randn_like(one) for key, one in model.state_dict().items()
            }
            for name in case.states
        }
    return replace(case, model=model, states=states)


def written_out(task: DiffusionTask, model: Any, clean: Tensor) -> Tensor:
    """Return one example's loss, draw by draw; clean is [1, H, W]."""
    timesteps, noises = task.draws_of(clean.unsqueeze(0))
    total: Tensor | float = 0.0
    for timestep, noise in zip(timesteps[0], noises[0], strict=True):
        share = task.schedule.alphas_cumprod[timestep]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        target = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": share.sqrt() * noise - (1 - share).sqrt() * clean,
        }[task.schedule.prediction]
        weight = 1.0 if task.min_snr_gamma is None else min(share / (1 - share), 2.0)
        error = model(noisy.unsqueeze(0), timestep.unsqueeze(0))[0] - target
        total = total + weight * error.square().mean() / task.draws
    return total


def test_the_mean_over_a_batch_is_that_over_an_example():
    """Every example has as many numbers; its label, beside it in the batch, is none of them."""
    case, found = denoising_case(), []
    batch = case.images[:3], case.labels[:3]
    for reduction in ("mean", "batch_mean"):
        task = Denoising()
        task.reduction = reduction
        task.train_examples = lambda: list(zip(case.images, case.labels, strict=True))
        found.append(task.train_loss(task.forward(case.model, batch), batch))
    assert_close(found[1], found[0])


def point(name: str = "c4") -> EvaluationPoint:
    return EvaluationPoint(name, (name,), EVERYTHING, EVERYTHING)


def flat(model: nn.Module, gradients: Gradients) -> Tensor:
    """Return the gradients in the order of the parameters, [N, P]."""
    rows = {}
    for name, layer in gradients.items():
        dense = layer.dense()
        if name in ("norm", "time"):
            dense = dense.transpose(2, 3) if name == "time" else dense
            weight, bias = dense, dense[:, :, :, 1:]
            rows[f"{name}.weight"] = weight[:, :, :, :1] if name == "norm" else weight
            rows[f"{name}.bias"] = bias
            continue
        weight = dense[..., :-1]
        if name in ("first", "last"):  # of a convolution's inputs the channels run fastest
            channels = model.get_parameter(f"{name}.weight").shape[1]
            weight = weight.unflatten(-1, (-1, channels)).transpose(-1, -2)
        rows[f"{name}.weight"], rows[f"{name}.bias"] = weight, dense[..., -1]
    return torch.cat([rows[name].flatten(1) for name, _ in model.named_parameters()], dim=1)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.schedule.prediction)
def test_gradients_of_examples_and_queries_are_autograds(task):
    case = denoising_case()
    engine = gradient_source(case, task)
    found = engine.compute(point(), EVERYTHING[:3], sampled=False)
    queries = Examples(list(zip(case.images, case.labels, strict=True)), case.ids, task.collate)
    measured, losses = engine.query_gradients(queries, point(), Block(0, 3))
    for index in range(3):
        loss = written_out(task, case.model, case.images[index])
        expected = torch.autograd.grad(loss, list(case.model.parameters()))
        row = torch.cat([one.flatten() for one in expected])
        # Queries that are training examples have the same gradients: the draws are the same.
        for own in (found, measured, losses):
            assert_close(flat(case.model, own)[index], row)
    with torch.no_grad():
        batch = case.images[:3], case.labels[:3]
        outputs = task.forward(case.model, batch)
        expected = torch.stack([written_out(task, case.model, one) for one in batch[0]])
        assert_close(task.train_loss(outputs, batch), expected)
        assert_close(task.measurement(outputs, batch), expected)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.schedule.prediction)
def test_the_sampled_loss_has_the_hessian_as_its_second_moment(task):
    with seeded(93):
        outputs, clean = torch.randn(2, DRAWS, 2).double(), torch.randn(2, 2).double()
    check_curvature(task, outputs, (clean, torch.zeros(2)))


def test_curvature_is_the_gauss_newton_matrix():
    """As many orthogonal draws as an example has outputs make the expectation exact."""
    case, task = denoising_case(), TASKS[1]
    engine = gradient_source(case, task)
    engine.draws = 128
    assert engine.draws >= DRAWS * case.images[0].numel()
    engine.model_at(point())
    sampled = flat(case.model, engine.sampled_gradients(point(), Block(0, 2)))
    names = [name for name, _ in case.model.named_parameters()]

    def outputs_of(model: nn.Module, tensors: Any, example: int) -> Tensor:
        call = partial(torch.func.functional_call, model, tensors)
        denoiser = lambda noisy, timesteps: call((noisy, timesteps))  # noqa: E731
        return task.forward(denoiser, case.images[example : example + 1]).flatten()

    def loss_of(values: Tensor, example: int) -> Tensor:
        clean = case.images[example : example + 1]
        return task.train_loss(values.reshape(1, DRAWS, *clean.shape[1:]), clean).sum()

    expected = gauss_newton_matrix(case.model, names, outputs_of, loss_of, 2)
    assert_close(sampled.T @ sampled / len(sampled), expected)


@pytest.mark.parametrize("method", ["scaled_source", "retrac"])
def test_scores_do_not_depend_on_the_batch_size_or_the_order(method):
    case, task = denoising_case(), Denoising()
    expected = attribute(case, method, task=task, batch_size=8)
    for size in (1, 3):
        assert_close(attribute(case, method, task=task, batch_size=size).scores, expected.scores)
    order = [5, 0, 7, 2, 6, 1, 3, 4]
    found = attribute(case.reordered(order), method, task=task)
    assert_close(found.scores, expected.scores[:, :, order])


def test_draws_are_of_the_seed_alone_and_spread_over_the_schedule():
    task = Denoising()
    task.draws = 4
    clean = torch.zeros(3, 2, 5, dtype=torch.float64)
    timesteps, noise = task.draws_of((clean, None))
    assert [step // 3 for step in timesteps[0].tolist()] == [0, 1, 2, 3]
    assert noise.shape == (3, 4, 2, 5)
    for other in (clean[:1] + 1, clean.float()):
        again, same = task.draws_of(other)
        assert torch.equal(again[0], timesteps[2])
        assert torch.equal(same[0], noise[2].to(same))
    task.seed = 1
    assert not torch.equal(task.draws_of(clean)[1], noise)


def test_examples_may_have_draws_of_their_own():
    class Own(Denoising):
        def draws_of(self, batch: Any) -> tuple[Tensor, Tensor]:
            return batch[1].unsqueeze(1), super().draws_of(batch)[1][:, :1]

    task = Own()
    with seeded(94):
        model, clean = Denoiser().double(), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    batch = clean, torch.tensor([3, 9])
    outputs = task.forward(model, batch)
    assert outputs.shape == (2, 1, 1, 5, 5)
    for row in range(2):
        alone = (clean[row : row + 1], batch[1][row : row + 1])
        assert_close(task.forward(model, alone)[0], outputs[row])


def test_records_of_diffusers_and_conditions_are_passed_on():
    class Record:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample

    class Conditioned(Denoising):
        def predict(self, model: Any, noisy: Tensor, timesteps: Tensor, batch: Any) -> Tensor:
            return model(noisy + batch[1], timesteps)

    batch = torch.zeros(2, 4), torch.ones(2, 1)
    plain = Denoising().forward(lambda noisy, _: noisy, batch)
    assert_close(Denoising().forward(lambda noisy, _: Record(noisy), batch), plain)
    assert_close(Conditioned().forward(lambda noisy, _: noisy, batch), plain + 1)


def test_predictions_of_another_shape_and_whole_numbers_are_refused():
    clean = torch.zeros(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"shape \[6, 4, 4\] for examples of shape \[3, 4, 4\]"):
        Denoising().train_loss(torch.zeros(2, DRAWS, 6, 4, 4), clean)
    with pytest.raises(InputError, match=r"torch\.uint8"):
        Denoising().forward(nn.Identity(), clean.to(torch.uint8))
