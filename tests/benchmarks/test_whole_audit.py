"""The benchmark of a whole audit, as small as it goes."""

import pytest

from benchmarks import whole_audit


def test_the_table_has_the_ratio_of_medians():
    text = whole_audit.table([2.0, 3.0, 9.0], [10.0, 12.0, 11.0])
    assert "| whole audit, six checkpoints | 3.0 (2.0 to 9.0) |" in text
    assert "| ratio of the medians | 0.27 |" in text
    assert "ratio" not in whole_audit.table([2.0], [])


@pytest.mark.slow
def test_it_runs_alone(capsys):
    sizes = ["--examples", "64", "--queries", "3", "--widths", "8", "6", "10"]
    whole_audit.main(["--alone", "--repeats", "1", *sizes])
    assert "whole audit, six checkpoints" in capsys.readouterr().out
