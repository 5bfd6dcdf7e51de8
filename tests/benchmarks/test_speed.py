from pathlib import Path

import pytest
import torch
from benchmarks.measurement import STAGES, Cost, Measurement
from benchmarks.speed_tables import Comparison, Measured, comparison_table, stage_table
from rich.console import Console
from rich.table import Table

from benchmarks import speed, speed_ours
from tests.tiny import assert_close

SCORES = torch.arange(6.0).reshape(2, 3).cos()


def _measured(*factors: float, scores: tuple[torch.Tensor, ...] = (SCORES,)) -> Measured:
    """A run a factor: every stage takes so many seconds, twice as many of the CPU."""
    runs = [
        Measurement({stage: Cost(one, 2 * one, 100 * 2**20) for stage in STAGES}, {})
        for one in factors
    ]
    return Measured(tuple(runs), scores)


def _rows(table: Table) -> list[list[str]]:
    columns = [list(column.cells) for column in table.columns]
    return [[str(cell) for cell in row] for row in zip(*columns, strict=True)]


def test_ratios_are_of_medians_to_the_first() -> None:
    measured = {
        "ours": _measured(1, 2, 9),
        "peer": _measured(6, 3, 4, scores=(-2 * SCORES, SCORES)),
    }
    comparison = Comparison("title", STAGES, ("ours", "peer"))
    ours, peer = _rows(comparison_table(comparison, measured))
    assert ours == [
        "ours", "8.00 (4.00 to 36.00)", "16.00 (8.00 to 72.00)", "100 (100 to 100)",
        "1.00", "1.00", "1.00000", "",
    ]  # fmt: skip
    assert peer[1:3] == ["16.00 (12.00 to 24.00)", "32.00 (24.00 to 48.00)"]
    assert peer[4:] == ["2.00", "2.00", "-1.00000", "-1.00000"]


def test_a_part_of_the_stages_has_their_costs_and_no_scores() -> None:
    measured = {"ours": _measured(1), "peer": _measured(5)}
    rows = _rows(comparison_table(Comparison("fit", STAGES[:3], ("ours", "peer")), measured))
    assert [row[1] for row in rows] == ["3.00", "15.00"]
    assert [row[-2:] for row in rows] == [["", ""], ["", ""]]


def test_stages_have_their_medians() -> None:
    (row,) = _rows(stage_table({"ours": _measured(1)}))
    assert row[1:] == ["1.00 / 2.00 / 100"] * len(STAGES)


def test_scores_in_parts_and_in_float64_are_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    def scores(*options: str) -> torch.Tensor:
        files = ["--measurement", str(tmp_path / "m.json"), "--scores", str(tmp_path / "s.pt")]
        speed_ours.main([str(tiny_folder), *files, *options])
        assert set(STAGES) < set(Measurement.read(tmp_path / "m.json").costs)
        return torch.load(tmp_path / "s.pt", weights_only=True)

    found = scores("--batch-size", "10")
    exact = ("--dtype", "float64", "--tolerance", "0", "--queries", "2", "--scored-examples", "10")
    expected = scores("--batch-size", "10", *exact)
    assert expected.dtype == torch.float64
    assert_close(found[:2, :10].double(), expected, tolerance=2e-3)


def test_given_labels_are_another_curvature(tiny_folder: Path, tmp_path: Path) -> None:
    found = {}
    for labels in ("sampled", "given"):
        files = ["--measurement", str(tmp_path / "m.json"), "--scores", str(tmp_path / "s.pt")]
        speed_ours.main([str(tiny_folder), *files, "--labels", labels])
        found[labels] = torch.load(tmp_path / "s.pt", weights_only=True)
    assert not torch.allclose(found["sampled"], found["given"])


@pytest.mark.usefixtures("measured_here")
def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--examples", "64", "--queries", "3", "--widths", "8", "6", "10"]
    speed.main([*sizes, "--repeats", "1", "--threads", "1", "--peers", "--exact"])
    printed = capsys.readouterr().out
    for expected in (
        "torch 2.",
        speed.SOURCE,
        speed.SOURCE_OF_ONE,
        speed.RECOMPUTED,
        "(b) EK-FAC",
        "(c) Source",
    ):
        assert expected in printed
    assert printed.count("against exact filters in float64 (3 queries × 64 examples)") == 4


def test_a_table_prints(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=140).print(stage_table({"ours": _measured(1)}))
    assert "corrected eigenvalues" in capsys.readouterr().out
