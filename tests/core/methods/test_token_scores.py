"""Scores by token: those of a model that has every layer's weight once a position."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import nn

from sourcetrace.core.gradients.factored import FactoredGradient
from sourcetrace.core.methods.score import BlockGradients, SegmentResponses
from sourcetrace.core.methods.token_scores import token_scores
from sourcetrace.core.model.examples import Block
from sourcetrace.tasks import TokenClassificationTask
from tests.tiny import assert_close, case_plan, gradient_source, seeded, tiny_case

TOKENS, LENGTH, WIDTH = 7, 6, 6  # a width like the length: sizes alone do not say which is which


class Sequences(nn.Module):
    """Predicts tokens by layers of every kind of use."""

    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(TOKENS, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.twice = nn.Linear(WIDTH, WIDTH)
        self.flat = nn.Linear(WIDTH, WIDTH)
        self.heads = nn.RMSNorm(3)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.pooled = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        hidden = self.token(tokens) + self.position(torch.arange(LENGTH).unsqueeze(0))
        hidden = hidden + self.twice(self.twice(hidden).tanh())
        flat = self.flat(hidden.flatten(0, 1))  # which example a row belongs to, it does not say
        hidden = hidden + flat.unflatten(0, (-1, LENGTH))
        heads = self.heads(hidden.unflatten(-1, (2, 3))).flatten(-2)
        hidden = hidden + self.attention(heads, heads, heads, need_weights=False)[0]
        return self.head(hidden + (self.pooled(hidden.mean(1)) * self.scale).unsqueeze(1))


ELSEWHERE = {"pooled", "scale"}
"""The layers that are used at no token's position."""


def logits_by_position(weights, tokens):
    """Return the logits of one sequence, [T, V], with a weight of its own at each position.

    Args:
        weights: Name -> [T, …]; the tied weight's as embedding under "token.weight" and as output
            layer under "head.weight".
        tokens: [T].
    """

    def linear(name, values):
        return torch.einsum("toi,ti->to", weights[f"{name}.weight"], values) + weights.get(
            f"{name}.bias", 0
        )

    place = torch.arange(LENGTH)
    hidden = weights["token.weight"][place, tokens] + weights["position.weight"][place, place]
    hidden = hidden + linear("twice", linear("twice", hidden).tanh())
    hidden = hidden + linear("flat", hidden)
    heads = hidden.unflatten(-1, (2, 3))
    eps = torch.finfo(heads.dtype).eps
    heads = heads * (heads.square().mean(-1, keepdim=True) + eps).rsqrt()
    heads = (heads * weights["heads.weight"].unsqueeze(1)).flatten(-2)
    projected = (
        torch.einsum("toi,ti->to", weights["attention.in_proj_weight"], heads)
        + weights["attention.in_proj_bias"]
    )
    query, key, value = (
        one.unflatten(-1, (2, 3)).transpose(0, 1) for one in projected.chunk(3, -1)
    )
    shares = (query @ key.mT / 3**0.5).softmax(-1)
    mixed = (shares @ value).transpose(0, 1).flatten(-2)
    hidden = hidden + linear("attention.out_proj", mixed)
    # What is not used at a token's position has one weight, the first position's.
    pooled = weights["pooled.weight"][0] @ hidden.mean(0) + weights["pooled.bias"][0]
    return linear("head", hidden + pooled * weights["scale"][0])


def sequence_case(stages="a" * 6):
    case = tiny_case(stages)
    with seeded(31):
        model = Sequences().double().eval()
        states = {
            name: {
                key: value + 0.3 * torch.randn_like(value)
                for key, value in model.state_dict().items()
            }
            for name in case.states
        }
        for state in states.values():
            state["head.weight"] = state["token.weight"]
        tokens, labels = torch.randint(TOKENS, (2, len(stages), LENGTH))
    return replace(case, model=model, states=states, images=tokens, labels=labels)


def random_responses(engine, member, *, factored=False):
    """Return three rows of responses, the first two as sums of outer products or written out."""

    def of(layer):
        groups, outputs, inputs = layer.shape
        mean_loss = torch.randn(1, groups, outputs, inputs, dtype=torch.float64)
        terms = FactoredGradient(
            torch.randn(2, groups, 2, inputs, dtype=torch.float64),
            torch.randn(2, groups, 2, outputs, dtype=torch.float64),
        )
        return (terms, mean_loss) if factored else torch.cat([terms.dense(), mean_loss])

    with seeded(32):
        found = [{one.name: of(one) for one in engine.coverage.layers} for _ in member.segments]
    return SegmentResponses(member, found, engine.like)


def prepared(stages="a" * 6, **options):
    case = sequence_case(stages)
    engine = gradient_source(case, TokenClassificationTask())
    assert engine.coverage.share == 1
    assert {layer.name for layer in engine.coverage.alone} == {"flat", "scale"}
    plan = case_plan(case, "source", segments=2)
    return case, engine, random_responses(engine, plan.members[0], **options)


def gradients_by_position(case, state, number):
    """Return the loss's gradients of every position's own weights, name -> [T, …]."""
    weights = {
        name: value.expand(LENGTH, *value.shape).clone().requires_grad_()
        for name, value in state.items()
    }
    loss = F.cross_entropy(logits_by_position(weights, case.images[number]), case.labels[number])
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


@pytest.mark.parametrize("factored", [False, True])
def test_a_token_scores_what_weights_of_its_own_position_would(factored):
    case, engine, responses = prepared(factored=factored)
    found = token_scores([responses], engine, {4: LENGTH, 1: LENGTH})
    for number, scores in found.items():
        assert scores.elsewhere.keys() == ELSEWHERE
        for place, (planned, response) in enumerate(
            zip(responses.member.segments, responses.responses, strict=True)
        ):
            tokens = torch.zeros(3, LENGTH, dtype=torch.float64)
            elsewhere = dict.fromkeys(ELSEWHERE, 0)
            for point in planned.points:
                own = gradients_by_position(case, case.states[point.id], number)
                own["token.weight"] += own["head.weight"]
                for layer in engine.coverage.layers:
                    one = response[layer.name]
                    rows = torch.cat([one[0].dense(), one[1]]) if factored else one
                    matrices = torch.stack(
                        [
                            layer.weight_matrix({name: own[name][t] for name in layer.parameters})
                            for t in range(LENGTH)
                        ]
                    )
                    products = rows.flatten(1) @ matrices.flatten(1).T / len(planned.points)
                    if layer.name in ELSEWHERE:
                        elsewhere[layer.name] += products.sum(1)
                    else:
                        tokens += products
            assert_close(scores.tokens[place], tokens)
            for name, expected in elsewhere.items():
                assert_close(scores.elsewhere[name][place], expected)


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("stages", ["aaaaaa", "aaabbb"])
def test_tokens_and_the_rest_are_the_examples_score(stages, unit_norm):
    _, engine, responses = prepared(stages)
    engine.unit_norm = unit_norm
    block = Block(0, 6)
    whole = responses.scores(BlockGradients.of(engine, responses.member, block)).shares
    found = token_scores([responses, responses], engine, dict.fromkeys(range(6), LENGTH))
    for number, scores in found.items():
        of_both = torch.cat([whole[..., number]] * 2) / 2
        assert_close(scores.shares, of_both)


def test_of_another_length_nothing_is_laid_on_tokens_and_nothing_is_lost():
    _, engine, responses = prepared()
    known = token_scores([responses], engine, {0: LENGTH})[0]
    for length in (0, 5):
        scores = token_scores([responses], engine, {0: length})[0]
        assert scores.tokens.shape == (2, 3, length)
        assert not scores.tokens.any()
        assert scores.elsewhere.keys() == {layer.name for layer in engine.coverage.layers}
        assert_close(scores.shares, known.shares)
