"""The key of an audit changes with every input that decides how it ends, and with no other."""

import json

import pytest

from sourcetrace.audit.identity.audit_key import (
    NO_KEY,
    AuditKey,
)
from sourcetrace.errors import InputError

DATA = {
    "training": {"digest": "st1-1", "table": "1", "rows": 3},
    "queries": {"digest": "st1-2", "table": "2", "rows": 3},
}
PARAMETERS = {"task": {"class": "churn.Churn", "arguments": {"year": 2026, "password": "a"}}}


def key(data=DATA, checkpoints=None, code="c", parameters=PARAMETERS):
    files = checkpoints or {"step_1.pt": "0" * 64}
    return AuditKey.of(parameters, data=data, checkpoints=files, code=code)


def with_group(**groups):
    return {**PARAMETERS, **groups}


def test_it_is_its_own_text():
    assert AuditKey.parse(key().text) == key()
    assert key().changes_since(key()) == []
    assert AuditKey.parse(None) is None
    assert AuditKey.parse(NO_KEY) is None


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("data", {"data": {**DATA, "training": {"digest": "st1-3", "table": "1"}}}),
        ("data", {"data": {**DATA, "queries": {"digest": "st1-3", "table": "2"}}}),
        ("data", {"data": {**DATA, "training": {"digest": "st1-1", "table": "3"}}}),
        ("checkpoints", {"checkpoints": {"step_1.pt": "1" * 64}}),
        ("checkpoints", {"checkpoints": {"step_2.pt": "0" * 64}}),
        ("parameters", {"code": "d"}),
        ("parameters", {"parameters": with_group(task={"class": "churn.Other"})}),
        (
            "parameters",
            {"parameters": with_group(task={"class": "churn.Churn", "arguments": {"year": 2027}})},
        ),
        ("parameters", {"parameters": with_group(attribution={"method": "influence"})}),
        ("parameters", {"parameters": with_group(segments={"count": 2})}),
        ("parameters", {"parameters": with_group(checkpoints={"stages": {"training": 9}})}),
        ("limits", {"parameters": with_group(report={"false_discovery_rate": 0.5})}),
        ("limits", {"parameters": with_group(gate={"require_verification": True})}),
    ],
)
def test_an_input_changes_its_part(part, changes):
    assert key(**changes).changes_since(key()) == [part]


@pytest.mark.parametrize(
    "groups",
    [
        {"gradients": {"batch_size": 7}},
        {"attribution": {"device": "cpu"}},
        {"attribution": {"method": "scaled_source", "seed": 0}},
        {"checkpoints": {"path": "elsewhere"}},
        {"tracking": {"registered_model": {"name": "churn", "version": "1"}}},
    ],
)
def test_what_decides_nothing_changes_nothing(groups):
    assert key(parameters=with_group(**groups)) == key()


@pytest.mark.parametrize("name", ["password", "target_token", "max_tokens"])
def test_every_argument_of_the_task_counts_whatever_its_name(name):
    one, other = (
        key(parameters=with_group(task={"class": "churn.Churn", "arguments": {name: value}}))
        for value in (5, 7)
    )
    assert one.changes_since(other) == ["parameters"]


def test_the_content_of_the_baseline_and_of_the_learning_rates_counts_not_where_they_are(tmp_path):
    approved, moved, rates = (tmp_path / name for name in ("a.json", "b.json", "rates.csv"))

    def limits(path):
        return AuditKey.limits_of({"gate": {"baseline": path and str(path)}})

    none = limits(None)
    with pytest.raises(InputError, match=r"gate\.baseline: there is no file"):
        limits(approved)
    approved.write_text(json.dumps({"metrics": {"harmful_share": 0.1}, "summary": "x"}))
    moved.write_text(json.dumps({"metrics": {"harmful_share": 0.1}}))
    assert limits(approved) == limits(moved) != none
    moved.write_text(json.dumps({"metrics": {"harmful_share": 0.2}}))
    assert limits(moved) != limits(approved)

    with_rates = with_group(checkpoints={"learning_rates": str(rates)})
    with pytest.raises(InputError, match="learning_rates"):
        key(parameters=with_rates)
    rates.write_text("step,learning_rate\n1,0.1\n")
    first = key(parameters=with_rates)
    rates.write_text("step,learning_rate\n1,0.2\n")
    assert key(parameters=with_rates).changes_since(first) == ["parameters"]


def test_a_wrong_parameter_is_named():
    with pytest.raises(InputError, match=r"segments\.count"):
        key(parameters=with_group(segments={"count": 0}))


def test_only_a_complete_key_is_one():
    parts = {"limits": "f" * 16}
    assert AuditKey.complete(parts, earlier=None) == NO_KEY
    assert AuditKey.complete(parts, earlier=NO_KEY) == NO_KEY
    assert AuditKey.complete(None, earlier=key().text) == NO_KEY
    replaced = AuditKey.parse(AuditKey.complete(parts, earlier=key().text))
    assert replaced.changes_since(key()) == ["limits"]
