"""What is logged of parameters that may hold a secret."""

import pytest

from sourcetrace.redaction import HIDDEN, hide_values


@pytest.mark.parametrize("group", ["task.arguments", "checkpoints.storage_options"])
@pytest.mark.parametrize("namespace", ["", "churn_audit."])
def test_everything_in_groups_that_may_hold_secrets_is_hidden(group, namespace):
    values = {"key": "AKIA", "client": {"endpoint": "http://host"}}
    for name in reversed(f"{namespace}{group}".split(".")):
        values = {name: values}
    hidden = hide_values(values)
    for name in f"{namespace}{group}".split("."):
        hidden = hidden[name]
    assert hidden == {"key": HIDDEN, "client": {"endpoint": HIDDEN}}


def test_where_checkpoints_are_is_shown_without_a_password():
    path = {"path": "s3://bucket/run", "cache": "https://user:word@host/run"}
    assert hide_values({"checkpoints": path}) == {
        "checkpoints": {"path": "s3://bucket/run", "cache": HIDDEN}
    }
