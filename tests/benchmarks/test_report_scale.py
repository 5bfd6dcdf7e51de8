"""The benchmark of the report, as small as it goes."""

import pytest
from benchmarks.measurement import Cost, Measurement

from benchmarks import report_scale


def test_the_table_adds_up_seconds_and_has_the_largest_memory():
    costs = {"list_for_review": Cost(2.0, 1.5, 700_000_000), "render_page": Cost(1.0, 1.0, 10**9)}
    text = report_scale.table(Measurement(costs, {"words": 1234}))
    assert "| together | 3.0 | 2.5 | 1000 |" in text
    assert text.endswith("words: 1,234")


@pytest.mark.slow
def test_it_runs(capsys):
    report_scale.main(["--examples", "600", "--queries", "6"])
    assert "| render_page |" in capsys.readouterr().out
