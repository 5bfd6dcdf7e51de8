"""Explanations in words and as a page: which way a score counts, and no text obeyed."""

import re

import pytest

from sourcetrace.reporting.explanation import (
    ExplainedQuery,
    Explanations,
    Influence,
    Token,
)
from sourcetrace.reporting.queries.pages import explanation_page

EVIL = "<script>alert(1)</script>[bold red]\x1b[31m\u202e"


def explanations(*, higher_is_better=False, text=EVIL):
    """Return one query with a helper and a harmer, of tokens that help and hurt."""
    sign = -1 if higher_is_better else 1
    tokens = (
        Token(text=text, score=sign * 0.4),
        Token(text=" film", score=sign * -0.1),
        Token(text="\n", score=0.0),
    )

    def influence(name, score):
        return Influence(
            example_id=name,
            label=text,
            text=text,
            score=sign * score,
            segments=(sign * score, 0.0),
            tokens=tokens,
            elsewhere={"head": sign * 0.01},
        )

    query = ExplainedQuery(
        example_id=text,
        label=None,
        predicted_label=text,
        text=text,
        measurement=2.5,
        helpers=(influence("helper", 0.3),),
        harmers=(influence("harmer", -0.2),),
    )
    return Explanations(
        method="source",
        measured="margin" if higher_is_better else "loss",
        higher_is_better=higher_is_better,
        training_examples=1536,
        segments=("1 (general)", "2 (narrow)"),
        queries=(query,),
    )


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_a_helpers_removal_makes_the_measurement_worse(higher_is_better):
    found = explanations(higher_is_better=higher_is_better)
    (query,) = found.queries
    (_, worse, helpers), (_, better, harmers) = found.groups(query)
    up, down = (
        ("raise the margin", "lower the margin")
        if higher_is_better
        else (
            "raise the loss",
            "lower the loss",
        )
    )
    assert (worse, better) == tuple(
        f"removing one would {one}" for one in ((down, up) if higher_is_better else (up, down))
    )
    assert found.helps(helpers[0].score)
    assert not found.helps(harmers[0].score)
    told = f"{down if higher_is_better else up} by 0.3"
    assert found.told(helpers[0].score) == told
    helping = found.strongest_tokens(helpers[0])["helps"]
    assert [found.helps(one.score) for one in helping] == [True]
    assert helpers[0].strength(helpers[0].tokens[0]) == (-1 if higher_is_better else 1)
    assert helpers[0].strength(helpers[0].tokens[2]) == 0


def test_the_page_is_self_contained_and_shows_texts_as_texts():
    page = explanation_page(explanations())
    assert "Tokens on" in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search("[\x1b\u202e]", page)
    assert not re.search(r"\b(src|href)=|url\(|@import|https?:", page)
    assert "prefers-color-scheme: dark" in page
    # Legible without colours: the strongest tokens stand in words, with their numbers.
    assert "Help most" in page
    assert "Hurt most" in page
    assert "Removing one would raise the loss" in page
    assert "without it +0.3" in page
    assert "Of no one token" in page
    assert page.count('class="helps"') > page.count('class="hurts"') > 0


def test_a_query_is_told_without_its_examples_and_where_from():
    margins = explanations(higher_is_better=True, text="7").model_copy(update={"log_odds": True})
    query = margins.queries[0].model_copy(
        update={"shares": {"stage": {"one": 1.0}, "segment": {"1 (a)": 0.25, "2 (b)": 0.75}}}
    )
    said = " ".join(margins.facts(query)).replace("\u00a0", " ")
    assert said == (
        "Its margin is 2.5 (probability 92.4 %), the model says 7. "
        "Predicted: without its 1 strongest helper 2.2 (probability 90 %), "
        "without its 1 strongest harmer 2.7 (probability 93.7 %). "
        "Share of all influence by segment: 1 (a) 25 %, 2 (b) 75 %."
    )


def test_a_language_models_loss_is_said_once():
    found = explanations(text="2.500 a token (perplexity 12.18)")
    first = next(found.facts(found.queries[0]))
    assert first == "Its loss is 2.500 a token (perplexity 12.18)."
