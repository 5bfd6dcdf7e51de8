"""Learning rates from a CSV file."""

import pytest

from sourcetrace.checkpoints.training.learning_rates import read_learning_rates
from sourcetrace.errors import InputError


def test_a_rate_of_the_file_holds_until_the_next(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate\n4,0.2\n1,0.1\n")
    found = read_learning_rates(file, last_step=6)
    assert found.rates[:, 0].tolist() == [0.1] * 3 + [0.2] * 3
    assert (found.first_step, found.source) == (1, "recorded")


def test_a_file_may_have_a_column_for_groups(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate,group\n0,0.1,0\n0,0.3,1\n2,0.2,0\n")
    assert read_learning_rates(file, last_step=2).rates.tolist() == [[0.1, 0.3], [0.2, 0.3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,rate\n1,0.1\n", "has columns step, rate; expected step, learning_rate"),
        ("step,learning_rate\n5,0.1\n", "begin with step 5"),
        ("step,learning_rate\n1,0.1\n1,0.2\n", "each step once"),
        ("step,learning_rate\n1,-0.1\n", "negative or not finite"),
        ("step,learning_rate\n1,\n", "none empty"),
        ("step,learning_rate,group\n1,0.1,1\n", "expected 0, 1"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    file = tmp_path / "rates.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_learning_rates(file, last_step=3)


def test_nothing_is_known_from_a_last_row_without_a_rate(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate\n1,0.1\n3,0.2\n5,\n")
    assert read_learning_rates(file, last_step=9).rates.tolist() == [[0.1], [0.1], [0.2], [0.2]]
    assert read_learning_rates(file, last_step=2).rates.tolist() == [[0.1], [0.1]]
    file.write_text("step,learning_rate\n1,0.1\n3,\n5,0.2\n")
    with pytest.raises(InputError, match="none empty"):
        read_learning_rates(file, last_step=9)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no file.*rates\.csv"):
        read_learning_rates(tmp_path / "rates.csv", last_step=3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_a_byte_order_mark(tmp_path, encoding):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate\r\n1,0.1\r\n", encoding=encoding)
    assert read_learning_rates(file, last_step=2).rates.tolist() == [[0.1], [0.1]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "latin-1"])
def test_another_encoding_is_refused_with_what_to_save(tmp_path, encoding):
    file = tmp_path / "rates.csv"
    file.write_text("step,learning_rate,größe\n1,0.1,2\n", encoding=encoding)
    with pytest.raises(
        InputError, match=r"rates\.csv is no text in UTF-8.*Save it as CSV in UTF-8"
    ):
        read_learning_rates(file, last_step=2)
