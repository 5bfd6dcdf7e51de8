"""What is logged of parameters that may hold a secret."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.redaction import HIDDEN, bare_address, error_line, hide_credentials, hide_values

# Begins and ends with letters that no other part of an address has.
_SECRETS = st.text(
    sorted({*string.ascii_letters, *string.digits, *string.punctuation} - {"?"}), max_size=12
).map(lambda text: f"QZ{text}ZQ")
_NAMES = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=8)


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


@given(_NAMES, _NAMES, _SECRETS, _NAMES, _NAMES, _SECRETS, st.sampled_from(["s3", "https", "ftp"]))
def test_no_address_shows_its_password_or_its_query(
    user, host, password, folder, file, signature, scheme
):
    address = f"{scheme}://{user}:{password}@{host}/{folder}/{file}?X-Sig={signature}"
    shown = hide_credentials(f"cannot read {address} now")
    assert shown == f"cannot read {scheme}://{HIDDEN}@{host}/{folder}/{file}?{HIDDEN} now"
    assert bare_address(address) == f"{scheme}://{host}/{folder}/{file}"
    assert hide_values({"a": [{"path": address}]}) == {"a": [{"path": HIDDEN}]}
    assert "QZ" not in hide_credentials(f"with url: /{file}?sig={signature} (refused)")


@given(_NAMES, _NAMES, _NAMES)
def test_an_address_without_secrets_is_shown_as_it_is(scheme, host, file):
    for address in (f"s3://{host}/{file}@2", f"models:/{host}@{file}", f"{host}: is that {file}?"):
        assert hide_credentials(address) == address
    assert bare_address(f"s3://{host}/{file}@2") == f"s3://{host}/{file}@2"


@given(_SECRETS, _SECRETS)
def test_an_error_shows_no_option_however_it_is_nested_or_quoted(secret, other):
    options = {"client_kwargs": {"headers": [{"Authorization": secret}], "other": other + "\n9"}}
    line = error_line(ValueError(f"{options} {secret} {other}\n9"), secrets=options)
    assert "QZ" not in line


def test_secrets_in_lists_and_below_a_secret_name_are_hidden():
    hidden = hide_values({"x": [{"password": "a", "n": 1}], "credentials": {"user": "b"}})
    assert hidden == {"x": [{"password": HIDDEN, "n": 1}], "credentials": {"user": HIDDEN}}


def test_a_token_is_hidden_unless_it_is_a_number():
    assert hide_values({"hf_token": "a", "max_tokens": 128}) == {
        "hf_token": HIDDEN,
        "max_tokens": 128,
    }
