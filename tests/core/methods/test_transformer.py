"""The whole core on a tiny transformer: embeddings, attention, norms and a head."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.curvature.covariance import CovarianceSums
from sourcetrace.core.layers.layer import Layer
from tests.oracles.dense import ekfac_matrix, named_gradients
from tests.oracles.scores import DenseSegment, source_scores
from tests.tiny import (
    Case,
    KeepsNothing,
    LeastLikelyLabels,
    assert_close,
    attribute,
    case_plan,
    covariances_at,
    gradient_source,
    seeded,
    tiny_case,
)

TOKENS, LENGTH = 6, 4


class TinyTransformer(nn.Module):
    """Classifies sequences of tokens: 186 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(TOKENS, 4, padding_idx=0)
        self.position = nn.Embedding(LENGTH, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 3, batch_first=True, norm_first=True)
        self.norm = nn.RMSNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).unsqueeze(0)
        hidden = self.encoder(self.token(tokens) + self.position(positions))
        return self.head(self.norm(hidden).mean(1))


def transformer_case(stages: str = "a" * 8) -> Case:
    return token_case(TinyTransformer, stages)


def token_case(build: Callable[[], nn.Module], stages: str = "a" * 8) -> Case:
    """Return a run of a model that classifies sequences of tokens."""
    case = tiny_case(stages)
    with seeded(121):
        model = build().double().eval()
        states = {
            name: {
                key: value + 0.3 * torch.randn_like(value)
                for key, value in model.state_dict().items()
            }
            for name in case.states
        }
        tokens, queries = torch.randint(TOKENS, (8, LENGTH)), torch.randint(TOKENS, (3, LENGTH))
    return replace(case, model=model, states=states, images=tokens, query_images=queries)


def rows_of(case: Case, layers: tuple[Layer, ...], losses: list) -> list[Tensor]:
    """Return every layer's gradients of these losses, [N, groups, D_out, D_in]."""
    names = [name for layer in layers for name in layer.parameters]
    found = named_gradients(case.model, names, lambda example: losses[example](), len(losses))
    return [torch.stack([layer.weight_matrix(one) for one in found]) for layer in layers]


def losses_of(case: Case, images: Tensor, labels: Tensor, loss) -> list:
    return [
        lambda image=image, label=label: loss(case.model(image[None])[0], label)
        for image, label in zip(images, labels, strict=True)
    ]


def margin(logits: Tensor, label: Tensor) -> Tensor:
    probability = logits.softmax(0)[label]
    return probability.log() - (1 - probability).log()


def layer_matrix(layer: Layer, factors: tuple[Tensor, Tensor], gradients: Tensor) -> Tensor:
    """Return a layer's EK-FAC matrix, its groups as diagonal blocks."""
    activation, pseudo_gradient = factors
    if activation.ndim == 2:
        # Distinct eigenvalues in order: the only eigenbasis is the identity.
        activation = torch.diag(torch.arange(layer.inputs).double()).unsqueeze(0)
    return torch.block_diag(
        *(
            ekfac_matrix(activation[group], pseudo_gradient[group], gradients[:, group])
            for group in range(layer.groups)
        )
    )


@pytest.mark.parametrize("segments", [1, 2])
def test_source_equals_the_dense_oracle(segments):
    check_source(transformer_case(), segments)


def check_source(case: Case, segments: int) -> None:
    """Scores of the whole core equal those of dense matrices."""
    source = gradient_source(case, LeastLikelyLabels(), cache=KeepsNothing())
    layers = source.coverage.layers
    assert source.coverage.share == 1
    plan = case_plan(case, "source", segments=segments)
    dense = []
    for planned in plan.segments:
        given, sampled, sums = [], [], []
        for point in planned.points:
            sums.append(covariances_at(source, point))
            case.model.load_state_dict(case.states[point.checkpoints[0]])
            losses = losses_of(case, case.images, case.labels, F.cross_entropy)
            given.append(rows_of(case, layers, losses))
            losses = losses_of(
                case, case.images, case.labels, lambda x, _: F.cross_entropy(x, x.argmin())
            )
            sampled.append(rows_of(case, layers, losses))
        blocks = [
            layer_matrix(
                layer,
                CovarianceSums.mean([one[layer.name] for one in sums]),
                torch.cat([one[index] for one in sampled]),
            )
            for index, layer in enumerate(layers)
        ]
        flat = [torch.cat([layer.flatten(1) for layer in one], 1) for one in given]
        dense.append(
            DenseSegment(
                step_mass=len(planned.points),
                weight_decay=0.03,
                curvature=torch.block_diag(*blocks),
                gradients=torch.stack(flat).mean(0),
                examples=8,
            )
        )
    case.model.load_state_dict(case.states["c4"])
    measured, lost = (
        torch.cat(
            [
                layer.flatten(1)
                for layer in rows_of(
                    case, layers, losses_of(case, case.query_images, case.query_labels, loss)
                )
            ],
            1,
        )
        for loss in (margin, F.cross_entropy)
    )
    queries = torch.cat([measured, lost.mean(0, keepdim=True)])
    found = attribute(case, "source", task=LeastLikelyLabels(), segments=segments)
    assert_close(found.scores, source_scores(queries, dense))


@pytest.mark.parametrize("stages", ["aaaaaaaa", "aabbbaab"])
def test_unchanged_by_batch_size_and_cache(stages):
    # With two stages, a batch of 2 may hold no example of the one.
    case = transformer_case(stages)
    first = attribute(case, "source", batch_size=2)
    again = attribute(case, "source", batch_size=5, cache=KeepsNothing())
    assert_close(again.scores, first.scores)
    assert_close(again.self_influence, first.self_influence)
