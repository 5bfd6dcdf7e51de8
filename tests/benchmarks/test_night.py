"""A night is over when every unit is done, and no shorter than the ideal one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmarks.night import Night, Simulation

from benchmarks import night

SMALL = {"ranks": 6, "hours": 2.0, "phases": 2}


@pytest.mark.parametrize(
    "happens",
    [
        {"spread": 0.0},
        {"slow": 0.5},
        {"failure_hours": 1.0},
        {"failure_hours": 4.0, "back_seconds": -1.0, "limit_hours": 1.0},
        {"failure_hours": 1.0, "limit_hours": 1.0, "locks": False},
    ],
)
def test_every_unit_is_done_whatever_happens(tmp_path: Path, happens: Mapping[str, Any]) -> None:
    simulation = Simulation(Night(**SMALL, **happens), tmp_path)
    simulation.run()
    found = simulation.check()
    assert found["done"] == 2 * simulation.night.units == 6 * 2 * 6
    assert simulation.now >= simulation.ideal
    if happens.get("locks", True):
        assert found["lines"] == found["done"]


def test_without_failures_and_waiting_a_night_is_the_ideal_one(tmp_path: Path) -> None:
    simulation = Simulation(
        Night(**SMALL, spread=0.0, start_seconds=0.0, look_seconds=0.0), tmp_path
    )
    simulation.run()
    assert simulation.now == pytest.approx(simulation.ideal)
    assert simulation.lost == simulation.waited == 0


def test_both_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    night.main(["--ranks", "4", "--hours", "1", "--phases", "1", "--only", "uneven"])
    night.main(["--ranks", "4", "--ledger", "20", "30", "--real-up-to", "20"])
    printed = capsys.readouterr().out
    assert "| uneven | " in printed
    assert "20 units in 4 logs of 0 MB, with folders: write all" in printed
    assert "30 units in 4 logs of 0 MB, without folders" in printed
