"""The whole core: scores against dense matrices, and what they must not depend on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.tasks import ClassificationTask
from tests.oracles.dense import flat, kronecker_factors, layer_ekfac_matrix, model_gradients
from tests.oracles.scores import DenseSegment, frame_scores, source_scores
from tests.tiny import (
    Case,
    KeepsEverySecond,
    KeepsEverything,
    KeepsNothing,
    LeastLikelyLabels,
    LossAsMeasurement,
    assert_close,
    attribute,
    seeded,
    tiny_case,
)

LAYERS = ("first", "second", "head")
ONE_STAGE = "a" * 8
# Stages alternate in the data, so that their examples are no contiguous range.
TWO_STAGES = "abbaabab"


class DenseRun:
    """A case's gradients, curvature and scores, by loops over examples and dense matrices."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.modules = [case.model.get_submodule(name) for name in LAYERS]

    def load(self, *checkpoints: str) -> None:
        """Load the mean weights of these checkpoints."""
        states = [self.case.states[name] for name in checkpoints]
        mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
        self.case.model.load_state_dict(mean)

    def gradients(self, loss: Callable[[Tensor, Tensor], Tensor], images, labels) -> Tensor:
        """Return a row an example, [N, P], at the loaded weights."""

        def loss_of(example: int) -> Tensor:
            return loss(self.case.model(images[example].unsqueeze(0))[0], labels[example])

        return flat(model_gradients(self.modules, loss_of, len(labels)))

    def training_gradients(self) -> Tensor:
        return self.gradients(
            lambda logits, label: -logits.log_softmax(0)[label], self.case.images, self.case.labels
        )

    def query_gradients(self) -> Tensor:
        """Return the measurements' gradients and that of the mean training loss, [Q + 1, P]."""
        images, labels = self.case.query_images, self.case.query_labels
        self.load("c4")

        def margin(logits: Tensor, label: Tensor) -> Tensor:
            probability = logits.softmax(0)[label]
            return probability.log() - (1 - probability).log()

        measured = self.gradients(margin, images, labels)
        losses = self.gradients(lambda logits, label: -logits.log_softmax(0)[label], images, labels)
        return torch.cat([measured, losses.mean(0, keepdim=True)])

    def layer_curvatures(self, points: list[tuple[str, ...]], own: list[int]) -> list[Tensor]:
        """Return each layer's EK-FAC matrix over these points and examples."""

        def loss_of(row: int) -> Tensor:
            logits = self.case.model(self.case.images[own[row]].unsqueeze(0))
            return F.cross_entropy(logits, logits.argmin(-1))

        factors: list[list] = [[] for _ in LAYERS]
        gradients: list[list[Tensor]] = [[] for _ in LAYERS]
        for point in points:
            self.load(*point)
            for index, module in enumerate(self.modules):
                factors[index].append(kronecker_factors(module, loss_of, len(own)))
            for index, layer in enumerate(model_gradients(self.modules, loss_of, len(own))):
                gradients[index].append(layer)
        return [
            layer_ekfac_matrix(factor, gradient)
            for factor, gradient in zip(factors, gradients, strict=True)
        ]

    def segment(
        self,
        points: list[tuple[str, ...]],
        stage: str | None,
        *,
        step_mass: float,
        curved: slice = slice(None),
    ) -> DenseSegment:
        """Return a segment over these points; a stage of None is all data."""
        stages = self.case.stages
        own = [i for i, names in enumerate(stages) if stage is None or stage in names]
        rows = []
        for point in points:
            self.load(*point)
            rows.append(self.training_gradients())
        gradients = torch.stack(rows).mean(0)
        gradients[[i for i in range(len(stages)) if i not in own]] = 0
        return DenseSegment(
            step_mass=step_mass,
            weight_decay=0.03,
            curvature=torch.block_diag(*self.layer_curvatures(points, own[curved])),
            gradients=gradients,
            examples=len(own),
        )


def check_scores(found: Tensor, expected: Tensor) -> None:
    """Compare every segment on its own scale."""
    assert found.shape == expected.shape
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_source_equals_the_dense_oracle(segments):
    case = tiny_case(ONE_STAGE)
    size = 4 // segments
    names = [record.id for record in case.records]
    dense = DenseRun(case)
    expected = source_scores(
        dense.query_gradients(),
        [
            dense.segment([(name,) for name in names[start : start + size]], "a", step_mass=size)
            for start in range(0, 4, size)
        ],
    )
    found = attribute(case, "source", task=LeastLikelyLabels(), segments=segments)
    check_scores(found.scores, expected)


def test_source_over_two_stages_equals_the_dense_oracle():
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    expected = source_scores(
        dense.query_gradients(),
        [
            dense.segment([("c1",)], "a", step_mass=1.0),
            dense.segment([("c2",)], "a", step_mass=1.0),
            dense.segment([("c3",), ("c4",)], "b", step_mass=2.0),
        ],
    )
    found = attribute(case, "source", task=LeastLikelyLabels(), segments=3)
    check_scores(found.scores, expected)


def test_examples_of_both_stages_equal_the_dense_oracle():
    case = tiny_case(["a", "ab", "b", "ab", "a", "b", "ab", "b"])
    dense = DenseRun(case)
    expected = source_scores(
        dense.query_gradients(),
        [
            dense.segment([("c1",), ("c2",)], "a", step_mass=2.0),
            dense.segment([("c3",), ("c4",)], "b", step_mass=2.0),
        ],
    )
    found = attribute(case, "source", task=LeastLikelyLabels(), segments=2)
    assert [len(segment.examples) for segment in found.plan.segments] == [5, 6]
    check_scores(found.scores, expected)


@pytest.mark.parametrize("cache", [KeepsEverything, KeepsEverySecond, KeepsNothing])
def test_curvature_of_a_sample_leaves_gradients_and_stages_as_they_are(cache):
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    sample = slice(1, None, 2)
    expected = source_scores(
        dense.query_gradients(),
        [
            dense.segment([("c1",), ("c2",)], "a", step_mass=2.0, curved=sample),
            dense.segment([("c3",), ("c4",)], "b", step_mass=2.0, curved=sample),
        ],
    )
    found = attribute(
        case,
        "source",
        task=LeastLikelyLabels(),
        cache=cache(),
        curvature_sample=lambda examples: examples[sample].clone(),
    )
    assert [len(segment.examples) for segment in found.plan.segments] == [4, 4]
    check_scores(found.scores, expected)


@pytest.mark.parametrize("method", ["source", "fast_source", "tracin"])
def test_an_example_of_both_stages_scores_what_two_copies_would(method):
    """One copy in each stage; the others stay as they are."""
    both = tiny_case(["a", "ab", "b", "b", "a", "b", "a", "b"])
    order = [0, 1, 1, 2, 3, 4, 5, 6, 7]
    copied = replace(
        both.reordered(order),
        ids=tuple(f"copy-{i}" for i in range(9)),
        stages=tuple("aabbbabab"),
    )
    # Labels that are drawn belong to names, and copies have two.
    found, expected = (
        attribute(case, method, task=LeastLikelyLabels(), segments=3) for case in (both, copied)
    )
    for one, other in (
        (found.scores.sum(0), expected.scores.sum(0)),
        (found.self_influence.sum(0), expected.self_influence.sum(0)),
    ):
        joined = torch.cat([other[..., :1], other[..., 1:3].sum(-1, True), other[..., 3:]], -1)
        assert_close(one, joined)


def test_fast_source_equals_the_dense_oracle_at_the_mean_weights():
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    expected = source_scores(
        dense.query_gradients(),
        [
            dense.segment([("c1", "c2")], "a", step_mass=2.0),
            dense.segment([("c3", "c4")], "b", step_mass=2.0),
        ],
    )
    found = attribute(case, "fast_source", task=LeastLikelyLabels(), segments=2)
    check_scores(found.scores, expected)


@pytest.mark.parametrize("damping", [None, 0.05])
def test_influence_equals_the_damped_dense_inverse(damping):
    """One segment, all data as one stage, λ a tenth of each layer's mean eigenvalue."""
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    queries = dense.query_gradients()
    layers = dense.layer_curvatures([("c4",)], list(range(8)))
    damped = [
        # The trace is the sum of the eigenvalues.
        layer
        + torch.eye(len(layer), dtype=torch.float64)
        * (0.1 * layer.trace() / len(layer) if damping is None else damping)
        for layer in layers
    ]
    expected = frame_scores(
        queries,
        [dense.segment([("c4",)], None, step_mass=1.0)],
        response=lambda _: torch.block_diag(*damped).inverse(),
        propagation=lambda segment: torch.eye(len(segment.curvature), dtype=torch.float64),
    )
    found = attribute(case, "influence", task=LeastLikelyLabels(), segments=3, damping=damping)
    check_scores(found.scores, expected)


@pytest.mark.parametrize("method", ["tracin", "retrac"])
def test_tracin_adds_up_inner_products_and_retrac_those_with_unit_gradients(method):
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    queries = dense.query_gradients()
    expected = torch.zeros(2, 4, 8, dtype=torch.float64)
    for segment, (stage, names) in enumerate((("a", ("c1", "c2")), ("b", ("c3", "c4")))):
        for name in names:
            dense.load(name)
            training = dense.training_gradients()
            if method == "retrac":
                training = training / training.norm(dim=1, keepdim=True)
            products = queries @ training.T
            for example in range(8):
                if case.stages[example] == stage:
                    # Step mass 2, the mean of two checkpoints, four examples.
                    expected[segment, :, example] += 2 * products[:, example] / 2 / 4
    check_scores(attribute(case, method, segments=2).scores, expected)


def test_gradient_similarity_is_the_inner_product_at_the_final_weights():
    case = tiny_case(TWO_STAGES)
    dense = DenseRun(case)
    queries = dense.query_gradients()
    dense.load("c4")
    expected = queries @ dense.training_gradients().T / 8
    check_scores(attribute(case, "gradient_similarity").scores, expected.unsqueeze(0))


def test_an_example_of_another_stage_contributes_exactly_0():
    case = tiny_case(TWO_STAGES)
    found = attribute(case, "source", segments=3)
    for index, stage in enumerate("aab"):
        other = torch.tensor([own != stage for own in case.stages])
        assert not found.scores[index][:, other].any()
        assert not found.self_influence[index][other].any()
        assert found.scores[index][:, ~other].all()
        assert found.self_influence[index][~other].all()


# Where one filter makes scores and self-influence; ASTRA solves for the queries alone.
FILTERED = ("source", "fast_source", "influence", "trak", "tracin", "gradient_similarity")


@pytest.mark.parametrize("method", FILTERED)
@pytest.mark.parametrize("stages", [ONE_STAGE, TWO_STAGES], ids=["one stage", "two stages"])
def test_self_influence_is_the_diagonal_of_the_scores_on_the_training_loss(method, stages):
    case = tiny_case(stages).queried_with_training()
    found = attribute(case, method, task=LossAsMeasurement(), segments=2)
    check_scores(found.self_influence, found.scores[:, :-1].diagonal(dim1=1, dim2=2))


def test_self_influence_is_the_same_in_parts(monkeypatch):
    """A bound of a few rows forces the split that large layers cause."""
    case = tiny_case(TWO_STAGES)
    whole = attribute(case, segments=3, batch_size=8).self_influence
    monkeypatch.setattr("sourcetrace.core.methods.self_influence._CHUNK_BYTES", 3 * 51 * 8)
    check_scores(attribute(case, segments=3, batch_size=8).self_influence, whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_unchanged_by_the_batch_size(method, batch_size):
    case = tiny_case(TWO_STAGES)
    expected = attribute(case, method, batch_size=3)
    found = attribute(case, method, batch_size=batch_size)
    check_scores(found.scores, expected.scores)
    check_scores(found.self_influence, expected.self_influence)


@pytest.mark.parametrize("method", METHODS)
def test_unchanged_by_the_order_of_the_examples(method):
    """Sampled labels belong to the examples' names, so they move with them."""
    case = tiny_case(TWO_STAGES)
    order = [5, 0, 7, 2, 6, 1, 3, 4]
    expected = attribute(case, method)
    found = attribute(case.reordered(order), method)
    check_scores(found.scores, expected.scores[:, :, order])
    check_scores(found.self_influence, expected.self_influence[:, order])


def test_other_names_are_other_sampled_labels():
    """Guards the test above: scores do depend on the labels that are drawn."""
    case = tiny_case(TWO_STAGES)
    renamed = replace(case, ids=tuple(f"renamed-{i}" for i in range(8)))
    expected, found = (attribute(one).scores for one in (case, renamed))
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cache", [KeepsNothing, KeepsEverySecond])
def test_unchanged_by_what_the_cache_holds(method, cache):
    case = tiny_case(TWO_STAGES)
    expected = attribute(case, method, cache=KeepsEverything())
    found = attribute(case, method, cache=cache())
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.self_influence, expected.self_influence)


def test_a_full_cache_is_computed_once():
    """Every pass after the covariances is served from the cache."""

    class Counts(ClassificationTask):
        calls = 0

        def train_loss(self, outputs, batch):
            self.calls += 1
            return super().train_loss(outputs, batch)

    case, task = tiny_case(TWO_STAGES), Counts()
    attribute(case, task=task, batch_size=8)
    # Four checkpoints, and the queries.
    assert task.calls == 4 + 1


class TripleLoss(ClassificationTask):
    """The same training, written with three times the loss and a third of the learning rate."""

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        return 3 * super().train_loss(outputs, batch)

    def sampled_loss(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return 3**0.5 * super().sampled_loss(outputs, generator)


@pytest.mark.parametrize("method", ["source", "fast_source", "tracin"])
def test_unchanged_by_the_scale_of_the_loss(method):
    """What moves the weights is rate times gradient; weight decay shifts with the gradient."""
    case = tiny_case()
    plain = attribute(case, method)
    slower = replace(
        case,
        records=[
            replace(one, learning_rate=one.learning_rate / 3, weight_decay=3 * one.weight_decay)
            for one in case.records
        ],
    )
    # The last row is a loss, and three times it.
    tripled = attribute(slower, method, task=TripleLoss())
    assert_close(tripled.scores[:, :-1], plain.scores[:, :-1])
    assert_close(tripled.scores[:, -1], 3 * plain.scores[:, -1])


class TagsTokens(ClassificationTask):
    """Labels every token but 0, which is padding: the loss is the mean over the others."""

    def train_loss(self, outputs: Tensor, batch: Any) -> Tensor:
        counted = batch[0] != 0
        losses = F.cross_entropy(outputs.mT, batch[1], reduction="none") * counted
        return losses.sum(1) / counted.sum(1)

    def sampled_loss(
        self, outputs: Tensor, generator: torch.Generator, batch: Any = None
    ) -> Tensor:
        counted = batch[0] != 0
        losses = super().sampled_loss(outputs, generator) * counted
        return losses.sum(1) / counted.sum(1).sqrt()

    def measurement(self, outputs: Tensor, batch: Any) -> Tensor:
        return -self.train_loss(outputs, batch)

    def describe(self, outputs: Tensor, batch: Any) -> dict[str, list[Any]]:
        return {}


class Tagger(nn.Module):
    """Four logits a token; padding of any length changes none of the others'."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(12, 8, padding_idx=0 if kind == "convolution" else None)
        self.middle = {
            "linear": lambda: nn.Linear(8, 8),
            "convolution": lambda: nn.Conv1d(8, 8, 3, padding=1),
            "attention": lambda: nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True),
        }[kind]()
        self.output = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        if self.kind == "attention":
            hidden = self.middle(hidden, src_key_padding_mask=tokens == 0)
        elif self.kind == "convolution":
            hidden = self.middle(hidden.mT).mT
        else:
            hidden = self.middle(hidden)
        return self.output(hidden.relu())


def tagger_case(kind: str, length: int) -> Case:
    """Return the same run whatever length, 7 at least, the examples are padded to."""
    plain = tiny_case()
    with seeded(15):
        model = Tagger(kind).double()
        states = {
            name: {
                key: one + 0.2 * torch.randn_like(one) for key, one in model.state_dict().items()
            }
            for name in plain.states
        }
        # Padding's own row is 0 in every checkpoint, as training leaves it.
        for state in states.values() if kind == "convolution" else ():
            state["embedding.weight"][0] = 0
        tokens = torch.randint(1, 12, (11, 7)) * (torch.arange(7) < torch.randint(1, 8, (11, 1)))
    tokens = F.pad(tokens, (0, length - 7))
    train, queries = tokens[:8], tokens[8:]
    return replace(
        plain,
        model=model,
        states=states,
        images=train,
        labels=(7 * train + 3) % 4,
        query_images=queries,
        query_labels=(7 * queries + 3) % 4,
    )


@pytest.mark.parametrize("kind", ["linear", "convolution", "attention"])
def test_padding_of_any_length_changes_no_score(kind):
    task = TagsTokens()
    short, long = (attribute(tagger_case(kind, length), task=task) for length in (7, 30))
    assert_close(long.scores, short.scores, tolerance=1e-6)
    assert_close(long.self_influence, short.self_influence, tolerance=1e-6)
