import sys
from pathlib import Path

import pytest
from benchmarks.measurement import Cost, Measurement, Stopwatch
from benchmarks.processes import measure_in_process


def test_a_written_measurement_reads_as_it_was(tmp_path: Path) -> None:
    one = Measurement({"scores": Cost(1.5, 2.5, 1024)}, {"forward passes": 12})
    one.write(tmp_path / "one.json")
    assert Measurement.read(tmp_path / "one.json") == one


def test_costs_add_seconds_and_keep_the_larger_peak() -> None:
    one = Measurement({"a": Cost(1, 2, 30), "b": Cost(10, 20, 3)}, {})
    assert one.total(["a", "b"]) == Cost(11, 22, 30)


def test_a_stage_that_comes_again_is_one_stage() -> None:
    watch = Stopwatch()
    for stage in ("a", "b", "a"):
        watch.start(stage)
    first = watch.costs["a"]
    watch.stop()
    watch.stop()  # nothing runs any more
    assert list(watch.costs) == ["a", "b"]
    assert watch.costs["a"].wall >= first.wall


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux keeps the peak")
def test_a_stage_has_its_own_peak() -> None:
    size = 100_000_000
    watch = Stopwatch()
    watch.start("large")
    large = b"x" * size
    watch.start("both")
    assert len(large) == size
    del large
    watch.start("small")
    watch.stop()
    assert watch.costs["large"].peak_bytes - watch.costs["small"].peak_bytes > 0.8 * size


def test_a_failed_process_says_how_it_ended() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exited with 2.*usage: python -m json.tool"):
        measure_in_process(sys.executable, "json.tool", ["--no-such-option"], threads=1)
