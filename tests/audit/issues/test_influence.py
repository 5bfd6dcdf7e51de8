"""Issues that scores show, planted in the digits, with influences that are exact."""

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_digits

from sourcetrace.audit.issues.influence import dominating_examples, unsupported_queries

QUERIES = 360


def helpers(scores):
    """Return schemas.QueryHelpers of scores of losses: what rises on removal was helped."""
    gains = scores.clip(0)
    return pl.DataFrame({"helpers": gains.sum(0) ** 2 / (gains**2).sum(0)})


def ridge_scores(inputs, targets, queries, query_targets):
    """Return what removing each example changes of each query's squared loss, to first order."""
    one_hot, query_one_hot = np.eye(10)[targets], np.eye(10)[query_targets]
    hessian = inputs.T @ inputs + 1e-1 * np.eye(inputs.shape[1])
    inverse = np.linalg.inv(hessian)
    weights = inverse @ inputs.T @ one_hot
    residuals, others = one_hot - inputs @ weights, query_one_hot - queries @ weights
    return (inputs @ inverse @ queries.T) * (residuals @ others.T)


@pytest.fixture(scope="module")
def digits():
    """Return digits of which few nines are left and some are broken, and scores of the rest."""
    data = load_digits()
    inputs = np.hstack([data.data / 16, np.ones((len(data.data), 1))])
    random = np.random.default_rng(0)
    order = random.permutation(len(inputs))
    held, training = order[:QUERIES], order[QUERIES:]
    nines = training[data.target[training] == 9]
    training = np.setdiff1d(training, nines[6:])
    planted = np.random.default_rng(1).choice(len(training), 5, replace=False)
    features, labels = inputs[training].copy(), data.target[training].copy()
    features[planted, :64] *= 6
    labels[planted] = (labels[planted] + 1) % 10
    scores = ridge_scores(features, labels, inputs[held], data.target[held])
    return labels, planted, data.target[held], scores


def review(labels):
    return pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(len(labels))],
            "given_label": [str(label) for label in labels],
            "given_label_probability": [0.5] * len(labels),
        }
    )


def queries(labels, **columns):
    ids = [f"q{i}" for i in range(len(labels))]
    return pl.DataFrame({"example_id": ids, "label": [str(one) for one in labels]} | columns)


def test_scaled_scans_of_a_wrong_label_dominate_their_class(digits):
    labels, planted, _, scores = digits
    listed = review(labels)
    sizes = listed.select("example_id", absolute_score=np.abs(scores).sum(1))
    found = dominating_examples(sizes, listed)
    assert dominating_examples(sizes.reverse(), listed).equals(found)
    assert dominating_examples(sizes.lazy(), listed).equals(found)  # as the catalog has it
    # What was set aside has no influence.
    assert not dominating_examples(sizes[1:], listed)["score"][0]
    broken = {f"e{number}" for number in planted}
    assert set(found.filter(pl.col("score") >= 0.8)["example_id"]) == broken
    strict = set(found.filter(pl.col("score") >= 0.9)["example_id"])
    assert strict < broken
    assert len(strict) >= 2


def test_queries_of_a_class_with_few_examples_lack_support(digits):
    _, _, targets, scores = digits
    half = np.arange(QUERIES) % 2
    found = unsupported_queries(helpers(scores), queries(targets, half=half.tolist()))
    flagged = found.filter(pl.col("score") >= 0.5)
    assert set(flagged["related"]) == {"label: 9"}
    assert flagged.height == (targets == 9).sum()


def test_slices_by_chance_lack_nothing():
    random = np.random.default_rng(0)
    scores = random.normal(size=(300, 120))
    table = queries(random.integers(0, 6, 120), part=random.integers(0, 6, 120).tolist())
    assert unsupported_queries(helpers(scores), table).is_empty()
