"""Numbers and categories of a table as a model is given them."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from sourcetrace.tasks.data import TableData

TRAIN = pl.DataFrame(
    {
        "months": [1, 2, 30],
        "spend": [0.5, 1.5, 2.5],
        "city": ["Ulm", "Aachen", "Ulm"],
        "plan": [2, 1, 2],
        "label": [0, 1, 0],
    }
)


class Churn(TableData, ClassificationTask):
    pass


def made(train=TRAIN, queries=None, **columns):
    return Churn(train=train, queries=train if queries is None else queries, **columns)


def batch_of(task):
    examples = task.train_examples()
    return task.collate([examples[i] for i in range(len(examples))])


def test_numbers_are_one_tensor_in_the_order_that_was_asked_for():
    (numbers, labels) = batch_of(made(numeric=["spend", "months"]))
    assert numbers.dtype == torch.float32
    assert numbers.tolist() == [[0.5, 1.0], [1.5, 2.0], [2.5, 30.0]]
    assert labels.tolist() == [0, 1, 0]


def test_numbers_are_standardised_by_what_is_given_and_by_nothing_else():
    scale = {"months": {"mean": 11.0, "scale": 13.25}}
    (numbers, _) = batch_of(made(numeric=["months", "spend"], standardise=scale))
    expected = (TRAIN["months"].to_numpy() - 11.0) / 13.25
    assert np.array_equal(numbers[:, 0].numpy(), expected.astype(np.float32))
    assert numbers[:, 1].tolist() == TRAIN["spend"].to_list()


def test_categories_are_sorted_as_text_whatever_order_their_type_has():
    city = pl.Series("city", TRAIN["city"], dtype=pl.Enum(["Ulm", "Bonn", "Aachen"]))
    assert made(TRAIN.with_columns(city), categorical=["city"]).categories["city"] == [
        "Aachen",
        "Ulm",
    ]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"numeric": ["months"], "categorical": ["months"]}, "numeric and categorical: 'months'"),
        ({"categorical": {"plan": [1, 2, "1"]}}, r"categorical\.plan: '1' is there twice"),
        ({"numeric": ["months"], "label_names": ["a", "b", "a"]}, "label_names: 'a'"),
    ],
)
def test_what_is_named_twice_is_refused(columns, said):
    with pytest.raises(InputError, match=said):
        made(**columns)


def test_categories_are_numbered_by_the_sorted_values_of_training_or_as_given():
    task = made(queries=TRAIN.head(1), categorical=["city", "plan"])
    (codes, _) = batch_of(task)
    assert codes.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert task.categories == {"city": ["Aachen", "Ulm"], "plan": [1, 2]}
    assert task.query_examples()[0][0].tolist() == [1, 1]
    given = {"city": ["Ulm", "Bonn", "Aachen"], "plan": None}
    assert batch_of(made(categorical=given))[0].tolist() == [[0, 1], [2, 0], [0, 1]]


def test_the_model_is_called_with_numbers_and_codes_or_with_the_one_that_there_is():
    class Both(nn.Module):
        def forward(self, numbers, codes):
            return numbers.sum(1) + 100 * codes.sum(1)

    class One(nn.Module):
        def forward(self, values):
            return values.sum(1)

    task = made(numeric=["spend"], categorical=["city"])
    assert task.forward(Both(), batch_of(task)).tolist() == [100.5, 1.5, 102.5]
    task = made(categorical=["city"])
    assert task.forward(One(), batch_of(task)).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("train", "columns", "message"),
    [
        (
            TRAIN.with_columns(months=pl.Series([1, None, 3])),
            {"numeric": ["months"]},
            r"'months' is empty or not finite in 1 row of 3 \('row 1'\)",
        ),
        (
            TRAIN.with_columns(spend=pl.Series([1.0, float("nan"), float("inf")])),
            {"numeric": ["spend"]},
            r"in 2 rows of 3 \('row 1', 'row 2'\)",
        ),
        (
            TRAIN.with_columns(city=pl.Series([None, "a", "b"])),
            {"categorical": ["city"]},
            "'city' is empty",
        ),
        (TRAIN, {"numeric": ["city"]}, "'city' holds String; expected numbers"),
        (TRAIN, {}, "name the columns"),
        (
            TRAIN,
            {"numeric": ["spend"], "standardise": {"months": {"mean": 0, "scale": 1}}},
            "standardise has 'months'",
        ),
        (
            TRAIN,
            {"numeric": ["spend"], "standardise": {"spend": {"mean": 0, "scale": 0}}},
            "standardise.spend.scale: Input should be greater than 0",
        ),
        (TRAIN, {"categorical": {"city": ["Ulm"]}}, r"none of 'Ulm' in 1 row of 3 \('row 1'\)"),
    ],
)
def test_what_the_model_could_not_be_given_is_refused(train, columns, message):
    with pytest.raises(InputError, match=message):
        made(train, **columns)


def test_a_category_that_training_did_not_have_is_refused_with_its_row():
    queries = TRAIN.with_columns(city=pl.Series(["Ulm", "Bonn", "Ulm"]))
    with pytest.raises(
        InputError, match=r"arguments.queries: 'city' has a value that is none of 'Aachen'"
    ):
        made(queries=queries, categorical=["city"])


def test_the_same_numbers_have_the_same_name_whatever_type_they_are_stored_in():
    whole = made(numeric=["months"]).train_table()["example_id"]
    floats = TRAIN.with_columns(pl.col("months").cast(pl.Float32))
    assert made(floats, numeric=["months"]).train_table()["example_id"].equals(whole)


def test_sorted_values_are_sorted_as_text_whatever_the_columns_type():
    words = ["low", "mid", "high"]
    for kind in (pl.String, pl.Categorical, pl.Enum(words)):
        train = pl.DataFrame({"c": pl.Series(words, dtype=kind), "label": [0, 1, 0]})
        task = Churn(train=train, queries=train, categorical=["c"])
        assert task.categories == {"c": ["high", "low", "mid"]}
