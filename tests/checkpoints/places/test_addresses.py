"""Addresses: which are paths on this machine, and where others are kept."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sourcetrace.checkpoints.places.addresses import (
    is_local,
    kept_at,
    local_path,
    rates_file,
    scheme_of,
)
from sourcetrace.errors import InputError


@pytest.mark.parametrize(
    ("address", "scheme", "local"),
    [
        ("data/checkpoints", "", True),
        ("/srv/run: 7/a", "", True),
        ("C:/run", "", True),
        ("file:///srv/run", "file", True),
        ("S3://bucket/run", "s3", False),
        ("runs:/abc/checkpoints", "runs", False),
        ("models:/churn@candidate", "models", False),
    ],
)
def test_a_scheme_says_that_an_address_is_elsewhere(address, scheme, local):
    assert (scheme_of(address), is_local(address)) == (scheme, local)


def test_a_file_address_may_have_escapes():
    assert local_path("file:///srv/run%207/a") == Path("/srv/run 7/a")


@given(st.lists(st.text(string.printable, max_size=80), min_size=2, max_size=2, unique=True))
def test_every_address_has_a_folder_of_its_own_in_the_cache(addresses):
    kept = [kept_at(f"s3://{one}", "cache") for one in addresses]
    assert kept[0] != kept[1]
    assert all(one.parent == Path("cache") and len(one.name) < 90 for one in kept)


def test_learning_rates_are_a_file_wherever_they_come_from():
    assert rates_file(None, None) is None
    assert rates_file("rates.csv", None) == Path("rates.csv")
    fetched = rates_file("s3://bucket/rates.csv", "cache")
    assert fetched == kept_at("s3://bucket/rates.csv", "cache") / "rates.csv"


def test_no_name_in_the_cache_has_a_secret_of_the_address():
    address = "https://user:wo/rd@host/rates.csv?X-Amz-Signature=SIG/NED"
    rates = rates_file(address, "cache")
    assert rates.name == "rates.csv"
    assert rates.parent.name.startswith("rates.csv-")
    assert kept_at("s3://user:word@host", "cache").name.startswith("host-")
    with pytest.raises(InputError, match=r"'file://\*\*\*@far/run'"):
        local_path("file://user:word@far/run")
