"""A task is made from its class and arguments; what fails says so without secrets."""

import pytest
from kedro.io import DatasetError, MemoryDataset

from sourcetrace.errors import InputError
from sourcetrace.tasks.loading import load_task

ADDRESS = "https://user:PASSWORD@host/x.csv?sig=SIGNED"


class NoSuchFile(MemoryDataset):
    def load(self):
        raise DatasetError(f"not found: {ADDRESS}")


class Failing:
    """A task whose making fails."""

    def __init__(self, train: object = None) -> None:
        raise RuntimeError(f"not found: {ADDRESS}")


@pytest.mark.parametrize("train", [{"catalog": NoSuchFile()}, "a.csv"])
def test_an_error_shows_no_password_of_an_address(train):
    specification = {"class": f"{__name__}.Failing", "arguments": {"train": train}}
    with pytest.raises(
        InputError, match=r"not found: https://\*\*\*@host/x\.csv\?\*\*\*"
    ) as caught:
        load_task(specification)
    assert "PASSWORD" not in str(caught.value)
    assert "SIGNED" not in str(caught.value)
