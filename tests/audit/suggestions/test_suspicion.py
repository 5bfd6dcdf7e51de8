"""The evidence is what the model says of an example without the example itself."""

import numpy as np
import polars as pl
import pytest
import torch

from sourcetrace.audit.suggestions.suspicion import weigh_evidence
from sourcetrace.schemas import Suspicions


def tables(margins, queries, *, own, harm=None, labels=None, predicted=None, losses=None):
    """Return a run of K checkpoints of N examples.

    Args:
        margins: [K, N], of the given label; None where it has no probability.
        queries: [K, Q], the same.
        own: Self-influence, [N].
        harm: Harm in errors, [N].
        labels: Given labels, [N].
        predicted: Predicted labels, [K, N].
        losses: Training losses, [K, N], where there are no margins.
    """
    points = len(queries)
    names = [f"c{i}" for i in range(points)]
    count = len(own)

    def signals(values, prefix, *, classes):
        table = pl.DataFrame(
            {
                "example_id": [f"{prefix}{i}" for i in range(values.shape[1])] * points,
                "checkpoint_id": np.repeat(names, values.shape[1]),
            }
        )
        chances = 1 / (1 + np.exp(-values.ravel()))
        return table.with_columns(
            loss=pl.Series(-np.log(chances) if classes else values.ravel()),
            given_label_probability=pl.Series(chances) if classes else pl.lit(None, pl.Float64),
        )

    classes = losses is None
    examples = signals(np.asarray(margins if classes else losses, float), "e", classes=classes)
    said = predicted if predicted is not None else [["a"] * count] * points
    ids = [f"e{i}" for i in range(count)]
    return {
        "train_table": pl.DataFrame(
            {"example_id": ids, "label": labels or ["a"] * count},
            schema_overrides={"label": pl.String},
        ),
        "checkpoint_manifest": pl.DataFrame(
            {"checkpoint_id": names, "run": [""] * points, "step": range(1, points + 1)}
        ),
        "example_signals": examples.with_columns(predicted_label=np.asarray(said).ravel()),
        "query_history": signals(np.asarray(queries, float), "q", classes=classes),
        "query_influence": pl.DataFrame(
            {"example_id": ids, "harm": harm or [0.0] * count, "harm_error": [1.0] * count}
        ),
        "self_influence": pl.DataFrame({"example_id": ids, "self_influence": own}),
    }


def test_the_corrected_probability_is_that_of_a_network_trained_without_the_example():
    """A logistic regression, retrained without each example in float64: first order finds most."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    labels = (inputs[:, 0] + torch.randn(30, generator=generator, dtype=torch.float64) > 0).double()
    signs = 2 * labels - 1

    def fitted(rows):
        weights = torch.zeros(3, dtype=torch.float64)
        for _ in range(50):
            margins = signs[rows] * (inputs[rows] @ weights)
            doubt = torch.sigmoid(-margins)
            gradient = -(doubt * signs[rows]) @ inputs[rows] + 0.3 * weights
            curvature = (inputs[rows].T * (doubt * (1 - doubt))) @ inputs[rows]
            hessian = curvature + 0.3 * torch.eye(3, dtype=torch.float64)
            weights = weights - torch.linalg.solve(hessian, gradient)
        return weights, hessian

    everything = torch.arange(30)
    weights, hessian = fitted(everything)
    margins = signs * (inputs @ weights)
    without = torch.stack(
        [signs[i] * inputs[i] @ fitted(everything[everything != i])[0] for i in range(30)]
    )
    gradients = -(torch.sigmoid(-margins) * signs)[:, None] * inputs
    own = (gradients @ torch.linalg.inv(hessian) * gradients).sum(1)
    found = weigh_evidence(**tables(margins[None].numpy(), np.zeros((1, 5)), own=own.tolist()))
    corrected = torch.tensor(found["corrected_probability"].to_numpy()).logit()
    change, predicted = without - margins, corrected - margins
    assert (change < 0).all()
    assert torch.corrcoef(torch.stack([change, predicted]))[0, 1] > 0.98
    assert (corrected - without).abs().mean() < 0.3 * change.abs().mean()


def test_the_checkpoints_that_predict_the_queries_best_count():
    margins = [[9.0, 9.0], [1.0, -1.0], [9.0, 9.0], [3.0, -3.0]]
    queries = [[-5.0], [2.0], [-4.0], [1.0]]
    found = weigh_evidence(**tables(margins, queries, own=[0.0, 0.0]))
    Suspicions.validate(found)
    expected = 1 / (1 + np.exp([-2.0, 2.0]))
    assert found["corrected_probability"].to_list() == pytest.approx(expected.tolist())
    assert found["suspicion"].to_list() == pytest.approx((1 - expected).tolist())


def test_an_example_that_was_set_aside_changes_nothing():
    rows = np.array([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])
    whole = tables(rows, [[1.0], [0.0]], own=[0.1, 0.2, 0.3], harm=[1.0, 2.0, -1.0])
    left = {
        name: one.filter(pl.col("example_id") != "e1")
        for name, one in whole.items()
        if "example_id" in one.columns
    }
    found = weigh_evidence(**whole | left | {"train_table": whole["train_table"]})
    assert found.equals(weigh_evidence(**whole | left))
    assert found["example_id"].to_list() == ["e0", "e2"]


def test_harm_moves_the_suspicion_by_no_more_than_three_errors():
    margins = np.zeros((1, 3))
    found = weigh_evidence(**tables(margins, [[1.0]], own=[0.0] * 3, harm=[-9.0, 0.0, 2.0]))
    odds = np.log(found["suspicion"].to_numpy() / (1 - found["suspicion"].to_numpy()))
    assert odds.tolist() == pytest.approx([-1.5, 0.0, 1.0])


def test_another_label_is_one_that_most_checkpoints_say():
    predicted = [["b", "b", "a"], ["b", "c", "a"], ["b", "c", "c"], ["a", "a", "a"]]
    found = weigh_evidence(
        **tables(
            np.zeros((4, 3)), [[3.0], [3.0], [3.0], [-9.0]], own=[0.0] * 3, predicted=predicted
        )
    )
    assert found["other_label"].to_list() == ["b", None, None]


def test_a_label_that_is_no_class_is_judged_by_its_loss_without_the_example():
    losses = np.array([[0.5, 2.0, 0.5]])
    found = weigh_evidence(
        **tables(None, [[0.5, 0.5]], own=[0.0, 0.0, 4.0], losses=losses, labels=["1", "2", "3"])
    )
    Suspicions.validate(found)
    # Errors of 1, 2 and 3 beside queries' of 1.
    assert found["suspicion"].to_list() == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert found["corrected_probability"].is_null().all()


def test_without_labels_there_is_harm_alone():
    found = weigh_evidence(
        **tables(np.zeros((1, 3)), [[1.0]], own=[0.0] * 3, harm=[5.0, -1.0, 0.0], labels=[None] * 3)
    )
    Suspicions.validate(found)
    assert found["suspicion"].to_list() == [1.0, 0.0, 0.5]
    assert found["exploratory"][0]
