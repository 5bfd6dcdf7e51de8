import sys
from pathlib import Path

import pytest
from benchmarks.measurement import STAGES, Cost, Measurement
from benchmarks.processes import measure_in_process
from benchmarks.scaling import Point, axis_table, fitted_exponent

from benchmarks import scaling, scaling_point

TINY = ["--examples", "30", "--queries", "2", "--checkpoints", "3", "--width", "4"]


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 3.0])
def test_a_power_law_has_its_exponent(exponent: float) -> None:
    values = [10, 30, 70, 200]
    assert fitted_exponent(values, [4 * one**exponent for one in values]) == pytest.approx(exponent)


@pytest.mark.parametrize(("values", "costs"), [([1], [1.0]), ([1, 2], [0.0, 1.0])])
def test_what_has_no_exponent_is_refused(values: list[int], costs: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more positive points"):
        fitted_exponent(values, costs)


def test_the_table_ends_with_the_exponents() -> None:
    points = [
        Point(value, (Cost(value / 4, 1, 1),) * 4, Cost(value, value**2, 2**20))
        for value in (10, 20, 40)
    ]
    table = axis_table("examples", points)
    assert [str(column.footer) for column in table.columns] == [
        "exponent", "1.00", "2.00", "0.00", *["1.00"] * 4,
    ]  # fmt: skip
    assert list(table.columns[0].cells) == ["10", "20", "40"]


def test_a_point_visits_every_example_at_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of data sets that are not tiny.
    monkeypatch.setattr("sourcetrace.core.engine.draws._DRAWS", 0)
    file = tmp_path / "m.json"
    scaling_point.main([*TINY, "--measurement", str(file), "--cache", "memory"])
    found = Measurement.read(file)
    assert set(STAGES) < set(found.costs)
    # 30 examples at 3 checkpoints, the queries, what checks a sample of the scores, and 8 that say
    # how many gradients the curvature's scale may take.
    assert 3 * 30 + 2 <= found.facts["forward passes"] <= 4 * 30 + 2 + 8


def test_names_differ_where_inputs_repeat() -> None:
    task = scaling_point.ScalingTask(scaling_point._workload(4, 1500, 2))
    examples = task.train_examples()
    assert len(examples) == 1500
    assert examples[0][0].equal(examples[1000][0])
    assert task.train_table()["example_id"].is_unique().all()


@pytest.mark.slow
def test_a_process_of_its_own_measures_the_same_stages() -> None:
    found = measure_in_process(sys.executable, "benchmarks.scaling_point", TINY, threads=1)
    assert set(STAGES) < set(found.costs)


@pytest.mark.usefixtures("measured_here")
def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    base = [f"--base-{name}" for name in ("examples", "queries", "checkpoints", "width")]
    sizes = [part for pair in zip(base, ("20", "2", "1", "4"), strict=True) for part in pair]
    scaling.main([*sizes, "--axes", "checkpoints", "--checkpoints", "1", "2", "--threads", "1"])
    printed = capsys.readouterr().out
    for expected in ("torch 2.", "cache recompute", "exponent"):
        assert expected in printed
