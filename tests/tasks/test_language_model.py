"""Language models: the losses of transformers, unequal lengths, padding, chosen tokens."""

import re

import polars as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from sourcetrace.core.model.objective import ExampleGenerator
from sourcetrace.errors import InputError
from sourcetrace.tasks import (
    LanguageModelTask,
    MultiLabelTask,
    RegressionTask,
    Task,
    TokenClassificationTask,
)
from tests import REPOSITORY
from tests.tasks.losses.checks import check_curvature
from tests.tiny import assert_close, seeded

LENGTHS = (5, 3, 4)
VOCABULARY = 6


class Sequences(LanguageModelTask):
    """Sequences of several lengths; what more a batch has is in the items."""

    def __init__(self, **more):
        with seeded(1):
            tokens = [torch.randint(1, VOCABULARY, (length,)) for length in LENGTHS]
        self.items = [
            {"input_ids": one, **{name: value[: len(one)] for name, value in more.items()}}
            for one in tokens
        ]

    def build_model(self):
        with seeded(2):
            return Recurrent().eval()

    def train_examples(self):
        return self.items

    query_examples = train_examples

    def train_table(self):
        return pl.DataFrame({"example_id": ["a", "b", "c"]})

    query_table = train_table


class Recurrent(nn.Module):
    """A causal model that hides no padding: it must be on the right."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.mixer = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, VOCABULARY)
        self.double()

    def forward(self, input_ids):
        return self.head(self.mixer(self.embedding(input_ids))[0])


def losses(task, batch):
    return task.train_loss(task.forward(task.build_model(), batch), batch).detach()


def token_losses(task):
    """Return every token's loss but the first's, of each sequence alone."""
    model = task.build_model()
    return [
        F.cross_entropy(
            model(one["input_ids"][None])[0, :-1], one["input_ids"][1:], reduction="none"
        )
        for one in task.items
    ]


@pytest.mark.parametrize(
    ("reduction", "divisors"),
    [("sum", [1] * 3), ("mean", [4, 2, 3]), ("batch_mean", [3] * 3), (2.0, [2] * 3)],
)
def test_an_example_is_reduced_as_asked_whatever_its_padding(reduction, divisors):
    task = Sequences()
    task.reduction = reduction
    expected = [one.sum() / by for one, by in zip(token_losses(task), divisors, strict=True)]
    assert_close(losses(task, task.collate(task.items)), torch.stack(expected).detach())
    for index, item in enumerate(task.items):
        assert_close(losses(task, task.collate([item])), expected[index].detach()[None])


def test_the_whole_data_are_a_batch_whose_mean_is_over_its_tokens():
    task = Sequences()
    tokens = torch.cat(token_losses(task))
    assert_close(losses(task, task.collate(task.items)).mean(), tokens.mean().detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_loss_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=8, n_embd=4, n_layer=1, n_head=1
    )
    with seeded(3):
        model = transformers.GPT2LMHeadModel(config).double().eval()
    task = Sequences(labels=torch.tensor([-100, -100, 3, 1, 2]))
    batch = task.collate(task.items)
    expected = model(**batch).loss
    assert_close(
        task.train_loss(task.forward(model, batch), batch).mean(), expected, tolerance=1e-6
    )


@pytest.mark.parametrize("width", [(0, 2), (2, 0)])
def test_labels_at_padding_have_no_loss(width):
    task = Sequences()
    model, tokens = task.build_model(), F.pad(task.items[0]["input_ids"], width)[None]
    mask = F.pad(torch.ones_like(task.items[0]["input_ids"]), width)[None]
    batch = {"input_ids": tokens, "attention_mask": mask}
    outputs = task.forward(model, batch)
    expected = task.train_loss(outputs, batch)
    assert_close(task.train_loss(outputs, {**batch, "labels": tokens}), expected)


def test_labels_of_a_prompt_and_masked_tokens_have_no_loss():
    labels = torch.tensor([-100, -100, 3, 1, 2])
    task = Sequences(labels=labels)
    task.reduction = "sum"
    outputs = task.forward(task.build_model(), batch := task.collate(task.items))
    expected = -outputs.log_softmax(-1)[0, [1, 2, 3], [3, 1, 2]].sum()
    assert_close(task.train_loss(outputs, batch)[0], expected)

    class Masked(Sequences):
        reduction = "sum"

        def mask_of(self, batch):
            return batch["kept"]

    masked = Masked(kept=torch.tensor([1, 0, 1, 1, 1]))
    assert_close(
        losses(masked, masked.collate(masked.items)),
        torch.stack([one[1:].sum() for one in token_losses(masked)]).detach(),
    )


@pytest.mark.parametrize("reduction", ["sum", "mean", "batch_mean"])
def test_the_second_moment_of_drawn_labels_is_the_hessian(reduction):
    task = Sequences()
    task.reduction = reduction
    with seeded(4):
        logits = torch.randn(3, 3, 2).double()
    labels = torch.tensor([[1, 0, 1], [0, 1, -100], [1, -100, 0]])
    check_curvature(task, logits, (labels.clamp_min(0), labels))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("given", [True, False])
def test_padding_changes_nothing_and_draws_belong_to_an_example(side, given):
    task = Sequences()
    model = task.build_model()

    def values(logits, batch, seeds):
        generator = ExampleGenerator.for_examples(seeds)
        drawn = task.sampled_loss(logits, generator, batch)
        return torch.stack([task.train_loss(logits, batch), drawn, task.measurement(logits, batch)])

    alone, logits, parts = [], [], []
    for example, item in enumerate(task.items):
        tokens = item["input_ids"][None]
        outputs = model(tokens)
        alone.append(values(outputs, tokens, [example]))
        missing = max(LENGTHS) - tokens.shape[1]
        width = (missing, 0) if side == "left" else (0, missing)
        logits.append(F.pad(outputs, (0, 0, *width), value=0.3))
        mask = F.pad(torch.ones_like(tokens), width)
        parts.append([F.pad(tokens, width), mask, F.pad(tokens, width, value=-100)])
    joined = map(torch.cat, zip(*parts, strict=True))
    batch = dict(zip(["input_ids", "attention_mask", "labels"], joined, strict=True))
    if not given:
        del batch["labels"]
    assert_close(values(torch.cat(logits), batch, range(len(LENGTHS))), torch.cat(alone, 1))


def test_chosen_tokens_are_measured_by_loss_or_log_probability():
    task = Sequences(measured=torch.tensor([1, 0, 1, 0, 1]))
    batch = task.collate(task.items)
    outputs = task.forward(task.build_model(), batch).detach()
    of = [one[1::2] for one in token_losses(task)]
    assert not task.measurement_higher_is_better
    assert_close(task.measurement(outputs, batch), torch.stack([one.mean() for one in of]).detach())
    task.measures = "log_probability"
    assert task.measurement_higher_is_better
    assert_close(task.measurement(outputs, batch), -torch.stack([one.sum() for one in of]).detach())
    del batch["measured"]
    whole = torch.stack([one.sum() for one in token_losses(task)]).detach()
    assert_close(task.measurement(outputs, batch), -whole)


def test_a_reviewer_reads_the_loss_of_a_token_and_the_perplexity():
    task = Sequences()
    batch = task.collate(task.items)
    (text, *_) = task.describe(task.forward(task.build_model(), batch), batch)["predicted_label"]
    mean = token_losses(task)[0].mean().item()
    assert text == f"{mean:.3f} a token (perplexity {2.718281828459045**mean:.4g})"


def test_batches_may_be_tokens_and_outputs_may_have_logits():
    task = Sequences()
    tokens = torch.tensor([[1, 2, 3, 1], [2, 2, 1, 4]])
    model = task.build_model()
    expected = losses(task, {"input_ids": tokens})

    class Named(nn.Module):
        def __init__(self, several):
            super().__init__()
            self.several = several

        def forward(self, tokens):
            logits = model(tokens)
            return (logits, None) if self.several else type("Output", (), {"logits": logits})()

    assert_close(losses(task, tokens), expected)
    assert_close(losses(task, (tokens,)), expected)
    assert_close(losses(task, (tokens, tokens)), expected)
    for several in (True, False):
        outputs = task.forward(Named(several), task.collate(list(tokens)))
        assert_close(task.train_loss(outputs, tokens).detach(), expected)


def test_labels_that_are_shifted_already_are_not_shifted_again():
    task = Sequences()
    tokens = torch.tensor([[1, 2, 3, 1, 5]])
    shifted = (tokens[:, :-1], tokens[:, 1:])
    with pytest.raises(InputError, match=r"next tokens already.*next_token = False"):
        losses(task, shifted)
    task.next_token = False
    expected = F.cross_entropy(task.build_model()(shifted[0])[0], tokens[0, 1:])
    task.reduction = "mean"
    assert_close(losses(task, shifted), expected.detach()[None])


def test_packed_sequences_keep_their_own_positions():
    task = Sequences(position_ids=torch.tensor([0, 1, 0, 1, 2]))
    batch = task.collate(task.items)
    assert "attention_mask" not in batch
    assert batch["position_ids"].tolist()[1] == [0, 1, 0, 0, 0]


def test_data_without_a_label_and_other_outputs_are_refused():
    task = Sequences(labels=torch.full((5,), -100))
    with pytest.raises(InputError, match="no training example has a label"):
        losses(task, task.collate(task.items))
    task = Sequences()
    batch = task.collate(task.items)
    with pytest.raises(InputError, match=r"outputs have shape \[3, 1, 6\] and the labels \[3, 5\]"):
        task.train_loss(task.forward(task.build_model(), batch)[:, -1:], batch)


def test_the_pages_tasks_are_tasks():
    page = (REPOSITORY / "docs/reference/language_models.md").read_text(encoding="utf-8")
    names = {"MyDecoder": lambda vocabulary: Sequences().build_model()}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["Answers"].measures == "log_probability"
    tokens = torch.tensor([[1, 2, 3, 1], [2, 2, 1, 4]])
    task = names["Rows"](tokens)
    assert isinstance(task, Task)
    assert_close(losses(task, task.collate(task.train_examples())), losses(Sequences(), tokens))


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "count"),
    [
        (TokenClassificationTask, (3, 4, 2), torch.tensor([[0, 1, -100, -100]] * 3), 2),
        (MultiLabelTask, (3, 4), torch.tensor([[0, 1, -1, 1.0]] * 3), 3),
        (RegressionTask, (3, 4), torch.ones(3, 4), 4),
    ],
)
def test_other_tasks_with_several_parts_know_the_mean_of_a_batch(task, outputs, targets, count):
    class Given(task):
        reduction = "batch_mean"

        def train_examples(self):
            return [(0, one) for one in targets]

    with seeded(7):
        outputs = torch.randn(outputs)
    loss = Given().train_loss(outputs, (None, targets))
    whole = task()
    whole.reduction = "sum"
    assert_close(loss, whole.train_loss(outputs, (None, targets)) / count, tolerance=1e-6)
