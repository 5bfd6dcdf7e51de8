"""Names of parameters and metrics: MLflow takes every one, and two stay two."""

import pytest
from mlflow.utils.validation import validate_param_and_metric_name

from sourcetrace.tracking.lineage.names import mlflow_name

ODD = [
    "größe(1)",
    "a→b",
    "a(b)",
    "a[b]",
    "mean@1",
    "k" * 300,
    "k" * 301,
    "",
    "a//b",
    "../a",
    "/a",
    "a/..",
]


@pytest.mark.parametrize("name", ["attribution.seed", "größe", "a/b c:d-e_f", "k" * 200])
def test_a_name_that_mlflow_takes_stays(name):
    assert mlflow_name(name) == name


def test_other_names_are_made_safe_and_stay_apart():
    made = [mlflow_name(name) for name in ODD]
    assert len(set(made)) == len(ODD)
    assert all(validate_param_and_metric_name(name) for name in made)
    assert max(map(len, made)) < 240
