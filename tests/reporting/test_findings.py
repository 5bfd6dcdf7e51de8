"""The page's sentences and numbers follow from the review list alone."""

import polars as pl
import pytest

from sourcetrace.core.plan.methods import METHODS
from sourcetrace.reporting.findings import (
    TOP_SHARE,
    describe_method,
    interpolated_sentence,
    loss_overlap,
    overlap_sentences,
    result_sentence,
    unattributed_sentence,
    unstable_sentence,
)
from tests.reporting.content import page_content


def with_losses(losses, actions=None):
    count = len(losses)
    return page_content(count).review_list.with_columns(
        loss=pl.Series([float(v) for v in losses]),
        suggested_action=pl.Series(actions or ["keep"] * count),
    )


def test_the_same_order_overlaps_wholly():
    overlap = loss_overlap(with_losses(range(100, 0, -1)))
    assert (overlap.top_count, overlap.shared) == (8, 8)
    assert overlap.expected == pytest.approx(100 * TOP_SHARE**2)


def test_the_opposite_order_does_not_overlap():
    actions = ["relabel"] * 3 + ["keep"] * 97
    overlap = loss_overlap(with_losses(range(100), actions))
    assert (overlap.shared, overlap.suspects, overlap.suspects_missed) == (0, 3, 3)
    assert "would have missed 3 of the 3 suspects" in overlap_sentences(overlap)


def test_equal_losses_keep_the_lists_order():
    assert loss_overlap(with_losses([1.0] * 50)).shared == 4


@pytest.mark.parametrize(
    ("examples", "suspects", "text"),
    [
        (40, 0, "None of the 40 training examples stands out"),
        (40, 1, "1 of 40 training examples should be looked at first: 1 looks mislabelled"),
        (40, 3, "3 of 40 training examples should be looked at first: 2 look mislabelled"),
        (40, 3, "1 needs a closer look"),
    ],
)
def test_result(examples, suspects, text):
    assert text in result_sentence(page_content(examples, suspects=suspects).review_list)


def test_parameters_without_attribution_are_counted_and_weighed():
    content = page_content()
    sentence = unattributed_sentence(content.unattributed_parameters, content.checkpoint_manifest)
    assert "1 parameter with 16 values, 25\u00a0% of the model, carries no attribution" in sentence
    sentence = unattributed_sentence(
        content.unattributed_parameters.clear(), content.checkpoint_manifest
    )
    assert sentence == "Every parameter of the model carries attribution."


def test_unstable_suspects_are_counted():
    content = page_content(suspects=6)
    assert "For 2 of the 6 suspects the harm is within two errors of zero" in unstable_sentence(
        content.review_list
    )
    stable = content.review_list.with_columns(sign_stable=pl.lit(value=True))
    assert "For none of the 6 suspects" in unstable_sentence(stable)
    unknown = content.review_list.with_columns(harm_error=pl.lit(0.0))
    assert "no spread to tell an error of the harm from" in unstable_sentence(unknown)


def test_a_guessed_learning_rate_is_said():
    manifest = page_content().checkpoint_manifest
    assert interpolated_sentence(manifest) == ""
    guessed = manifest.with_columns(
        learning_rate_source=pl.Series(["constant", "interpolated", "interpolated"])
    )
    assert "not recorded, at 2 of 3 checkpoints: a straight line" in interpolated_sentence(guessed)


def test_the_page_knows_every_method():
    assert all(describe_method(method)[2] for method in METHODS)
