"""The page's sentences and numbers follow from the review list alone."""

import polars as pl
import pytest

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.reporting.page import _layers_without_gradients, _LossOverlap
from sourcetrace.reporting.templating import plain_words
from tests.reporting.content import page_content


def with_losses(losses, actions=None):
    count = len(losses)
    return page_content(count).review_list.with_columns(
        loss=pl.Series([float(v) for v in losses]),
        suggested_action=pl.Series(actions or ["keep"] * count),
    )


def overlap(losses, actions=None, *, top_share=0.08):
    return plain_words(
        "overlap", _LossOverlap.of(with_losses(losses, actions), top_share=top_share)
    )


@pytest.mark.parametrize(("top_share", "count"), [(0.08, 8), (0.25, 25), (1.0, 100)])
def test_the_same_order_overlaps_wholly_in_the_share_that_is_looked_at(top_share, count):
    said = overlap(range(100, 0, -1), top_share=top_share)
    assert f"Of the first {count} examples of this list" in said
    assert f"{count} (100\u00a0%) also have one of the {count} highest losses" in said
    assert f"by chance about {count**2 / 100:.3g}" in said


def test_a_share_of_suspects_is_their_number():
    assert "Of the first 7 examples" in overlap(range(25), top_share=7 / 25)


def test_the_opposite_order_does_not_overlap():
    said = overlap(range(100), ["relabel"] * 3 + ["keep"] * 97)
    assert "0 (0\u00a0%) also have one of the 8 highest losses" in said
    assert "would have missed 3 of the 3 suspects" in said


def test_equal_losses_keep_the_lists_order():
    assert "4 (100\u00a0%) also have" in overlap([1.0] * 50)


@pytest.mark.parametrize(
    ("examples", "suspects", "text"),
    [
        (40, 0, "None of the 40 training examples stands out"),
        (40, 1, "Look at 1 of 40 training examples first: 1 to relabel."),
        (40, 3, "Look at 3 of 40 training examples first: 2 to relabel, 1 to review."),
    ],
)
def test_result(examples, suspects, text):
    assert text in plain_words("result", page_content(examples, suspects=suspects).summary)


def test_examples_that_were_set_aside_are_counted():
    assert plain_words("set_aside", 0) == ""
    assert "1 example could not be used and was left out" in plain_words("set_aside", 1)
    assert "were left out" in plain_words("set_aside", 2)


def test_parameters_without_attribution_are_counted_and_weighed():
    content = page_content()
    sentence = plain_words("unattributed", content.unattributed_parameters, 0.75)
    assert "25\u00a0% of the model: 1 parameter with 16 values carries no attribution" in sentence
    sentence = plain_words("unattributed", content.unattributed_parameters.clear(), 1.0)
    assert sentence == "The scores see every parameter of the model."


def test_unstable_suspects_are_counted():
    content = page_content(suspects=6)
    said = plain_words("uncertainty", content.summary, content.review_list)
    assert "for 2 of 6 suspects even its sign is uncertain" in said
    stable = page_content(suspects=6, unstable=0).summary
    assert "for none of 6 suspects" in plain_words("uncertainty", stable, content.review_list)
    unknown = content.review_list.with_columns(harm_error=pl.lit(0.0))
    said = plain_words("uncertainty", content.summary, unknown)
    assert "its error is not known" in said


def test_a_model_whose_scores_are_all_0_is_not_said_to_be_clean():
    said = plain_words("result", page_content(suspects=0, without_effect=40).summary)
    assert "scores of the 40 training examples are 0, so they say nothing" in said
    assert "stands out" in plain_words(
        "result", page_content(suspects=0, without_effect=39).summary
    )


def test_layers_without_gradients_are_named():
    def said(spectra):
        return plain_words("dead_layers", _layers_without_gradients(spectra))

    spectra = page_content().curvature_spectra
    assert said(spectra) == said(spectra.clear()) == ""
    dead = spectra.with_columns(trace=pl.lit(0.0))
    assert "No gradient reaches 1 layer: fc. The" in said(dead)
    once = pl.concat([spectra.head(1), dead.tail(1)])
    assert "1 layer: fc (in segment 2). The" in said(once)
    many = pl.concat(dead.with_columns(layer=pl.lit(f"fc{i}")) for i in range(7))
    assert "7 layers: fc0, fc1, fc2, fc3, fc4 and 2 more." in said(many)


def test_a_guessed_learning_rate_is_said():
    manifest = page_content().checkpoint_manifest
    assert plain_words("guessed_rates", manifest) == ""
    guessed = manifest.with_columns(
        learning_rate_source=pl.Series(["constant", "interpolated", "interpolated"])
    )
    said = plain_words("guessed_rates", guessed)
    assert "some steps before 2 of 3 checkpoints is a guess" in said


def test_the_page_knows_every_method():
    assert all(method.title and method.description for method in METHODS.values())
