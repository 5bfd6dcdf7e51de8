"""Models of transformers behind their tasks, against one autograd call an example, in float64.

Sequences of several lengths are padded together, and each is alone in autograd's: padding, the
batch it is in and the attention's kernel change nothing beyond rounding.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.layers.discovery import find_layers
from sourcetrace.core.model.examples import Block, EvaluationPoint, Examples
from sourcetrace.tasks import ClassificationTask, LanguageModelTask
from sourcetrace.tasks.named_inputs import logits_of, padded
from tests.core.layers.checks import check_all_counted
from tests.oracles.dense import named_gradients
from tests.tiny import KeepsNothing, assert_close, covariances_at, seeded

# Imported where they are used: they take seconds.
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

VOCABULARY = 11
KERNELS = ("sdpa", "eager")
LENGTHS = (3, 5, 2, 4)
EVERYTHING = torch.arange(len(LENGTHS))
POINT = EvaluationPoint("c", ("c",), EVERYTHING, EVERYTHING)
TOKENS = {"bos_token_id": None, "eos_token_id": None, "vocab_size": VOCABULARY}


class Sequences(LanguageModelTask):
    """By a mean over tokens, whose divisor no data need to say."""

    reduction = 2.5


class PaddedLeft(Sequences):
    """With the positions that sequences have without their padding."""

    def collate(self, items):
        masked = [item | {"attention_mask": torch.ones_like(item["input_ids"])} for item in items]
        batch = padded(masked, side="left")
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        return batch


class Translations(Sequences):
    next_token = False


class Labelled(ClassificationTask):
    """Inputs by name and a label, as the Trainer hands them to a classifier."""

    def collate(self, items):
        inputs, labels = zip(*items, strict=True)
        mask = [
            {"attention_mask": torch.ones_like(one["input_ids"])} if "input_ids" in one else {}
            for one in inputs
        ]
        joined = [one | more for one, more in zip(inputs, mask, strict=True)]
        return padded(joined), torch.tensor(labels)

    def forward(self, model, batch):
        return logits_of(model, batch[0])


def sequences(**more: Any) -> list[dict[str, Tensor]]:
    return [{"input_ids": torch.randint(1, VOCABULARY, (length,)), **more} for length in LENGTHS]


def gpt2(**more: Any) -> nn.Module:
    config = transformers.GPT2Config(
        n_positions=8, n_embd=4, n_layer=1, n_head=2, n_inner=6, **TOKENS, **more
    )
    return transformers.GPT2LMHeadModel(config)


def llama(**more: Any) -> nn.Module:
    """RMSNorm, rotary positions, SwiGLU, four heads of queries on two of keys and values."""
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        **TOKENS,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=4,
        patch_size=2,
        num_channels=1,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=4,
        d_kv=2,
        d_ff=6,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5ForConditionalGeneration(config)


@dataclass(frozen=True)
class Case:
    """A model behind its task, and what its coverage has to be."""

    task: Any
    build: Callable[[], nn.Module]
    items: Callable[[], list[Any]] = sequences
    alone: int = 0
    tied: int = 0


def texts_with_labels() -> list[Any]:
    return [(one, i % 3) for i, one in enumerate(sequences())]


def pictures() -> list[Any]:
    return [({"pixel_values": torch.randn(1, 4, 4).double()}, i % 3) for i in range(4)]


def pairs() -> list[Any]:
    return [
        one | {"labels": torch.randint(1, VOCABULARY, (2 + i % 2,))}
        for i, one in enumerate(sequences())
    ]


CASES = {
    "GPT-2": Case(Sequences, gpt2, tied=1),
    "GPT-2, padded on the left": Case(PaddedLeft, gpt2, tied=1),
    "Llama": Case(Sequences, llama),
    "Llama, padded on the left": Case(PaddedLeft, llama),
    "Llama, tied": Case(Sequences, lambda: llama(tie_word_embeddings=True), tied=1),
    "BERT": Case(Labelled, bert, texts_with_labels),
    "ViT": Case(Labelled, vit, pictures, alone=2),
    "T5": Case(Translations, t5, pairs, alone=2, tied=1),
}


def prepared(
    case: Case, *, size: int = len(LENGTHS), dtype: torch.dtype = torch.float64
) -> tuple[GradientEngine, list[Any]]:
    with seeded(5):
        model = case.build().to(dtype).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
        items = case.items()
    return engine_of(case.task(), model, items, size), items


def engine_of(task: Any, model: nn.Module, items: list[Any], size: int) -> GradientEngine:
    def run(count: int) -> Callable[[], Any]:
        return lambda: task.forward(model, task.collate(items[:count]))

    coverage = find_layers(model, run(3), examples=3, further=[(run(4), 4)], bare=1000)
    return GradientEngine(
        model=model,
        objective=task,
        coverage=coverage,
        training=Examples(items, [str(i) for i in range(len(items))], task.collate),
        load_weights=lambda _: model.state_dict(),
        cache=KeepsNothing(),
        batch_size=size,
        seed=0,
    )


def dense(gradients: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: one.dense() for name, one in gradients.items()}


def check_same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-10
) -> None:
    """Every layer's are the same, up to the rounding of float64 of its own or of the largest."""
    assert found.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    assert largest > 0
    for name, one in expected.items():
        # That of a key's bias in attention is 0.
        bound = max(float(one.abs().max()), 1e-3 * largest)
        assert float((found[name] - one).abs().max()) <= tolerance * bound, name


def check_factors(
    found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float = 1e-10
) -> None:
    for layer, sums in expected.items():
        for one, factor in zip(found[layer].compute(), sums.compute(), strict=True):
            assert_close(one, factor, tolerance=tolerance)


def check_same_everywhere(
    found: GradientEngine, expected: GradientEngine, tolerance: float = 1e-10
) -> None:
    """Gradients of given and of drawn labels and covariances are the same, layer by layer."""
    for sampled in (False, True):
        check_same(
            dense(found.compute(POINT, EVERYTHING, sampled=sampled)),
            dense(expected.compute(POINT, EVERYTHING, sampled=sampled)),
            tolerance,
        )
    check_factors(covariances_at(found, POINT), covariances_at(expected, POINT), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_autograds_of_every_example_alone(name):
    case = CASES[name]
    engine, items = prepared(case)
    coverage, model, task = engine.coverage, engine.model, engine.objective
    check_all_counted(coverage, model)
    assert coverage.share == 1.0
    assert len(coverage.alone) == case.alone
    assert len(coverage.tied) == case.tied
    names = [name for layer in coverage.layers for name in layer.parameters]
    measured, losses = engine.query_gradients(engine.training, POINT, Block(0, len(items)))
    for found, values in ((losses, task.train_loss), (measured, task.measurement)):

        def loss_of(example: int, values: Any = values) -> Tensor:
            batch = task.collate([items[example]])
            return values(task.forward(model, batch), batch).sum()

        expected = named_gradients(model, names, loss_of, len(items))
        matrices = {
            layer.name: torch.stack([layer.weight_matrix(one) for one in expected])
            for layer in coverage.layers
        }
        check_same(dense(found), matrices)


@pytest.mark.parametrize("name", CASES)
def test_drawn_labels_and_covariances_do_not_depend_on_the_batch(name):
    (whole, _), (single, _) = (prepared(CASES[name], size=size) for size in (len(LENGTHS), 1))
    ones = [single.compute(POINT, one, sampled=True) for one in EVERYTHING.split(1)]
    joined = {name: torch.cat([dense(one)[name] for one in ones]) for name in ones[0]}
    check_same(dense(whole.compute(POINT, EVERYTHING, sampled=True)), joined)
    check_factors(covariances_at(whole, POINT), covariances_at(single, POINT))


@pytest.mark.parametrize(
    # Llama's plain attention takes its softmax in float32, whatever its weights are.
    ("build", "dtype", "tolerance"),
    [(gpt2, torch.float64, 1e-10), (llama, torch.float32, 1e-5)],
)
def test_kernels_of_attention_give_the_same(build, dtype, tolerance):
    kinds = (Case(Sequences, lambda kind=kind: build(attn_implementation=kind)) for kind in KERNELS)
    check_same_everywhere(*(prepared(case, dtype=dtype)[0] for case in kinds), tolerance)


def test_conv1d_and_linear_layers_give_the_same():
    expected, items = prepared(CASES["GPT-2"])
    model = copy.deepcopy(expected.model)
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Conv1D":
            linear = nn.Linear(*module.weight.shape).double()
            linear.weight.data, linear.bias.data = module.weight.mT.contiguous(), module.bias
            model.set_submodule(name, linear)
    check_same_everywhere(engine_of(Sequences(), model, items, len(items)), expected)


def test_a_packed_row_is_the_sum_of_its_sequences():
    engine, items = prepared(CASES["Llama"])
    alone = dense(engine.compute(POINT, EVERYTHING, sampled=False))
    names = ("input_ids", "position_ids", "labels")
    parts = []
    for item in items:
        tokens = item["input_ids"]
        labels = tokens.clone()
        labels[0] = -100
        parts.append((tokens, torch.arange(len(tokens)), labels))
    rows = [
        dict(zip(names, map(torch.cat, zip(*pair, strict=True)), strict=True))
        for pair in (parts[:2], parts[2:], parts[1:3], parts[:1])
    ]
    packed = engine_of(Sequences(), engine.model, rows, len(rows))
    found = dense(packed.compute(POINT, EVERYTHING, sampled=False))
    check_same(
        found,
        {
            name: torch.stack([one[:2].sum(0), one[2:].sum(0), one[1:3].sum(0), one[0]])
            for name, one in alone.items()
        },
    )


def test_logits_of_half_precision_have_a_loss_in_float32():
    with seeded(6):
        logits = torch.randn(2, 4, VOCABULARY).bfloat16()
    tokens = torch.randint(VOCABULARY, (2, 4))
    loss = Sequences().train_loss(logits, tokens)
    assert loss.dtype == torch.float32
    assert_close(loss, Sequences().train_loss(logits.float(), tokens), tolerance=1e-7)
