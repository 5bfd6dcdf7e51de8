"""What is counted of a kill."""

import pytest
from benchmarks.kills import Kill, Reference, _summary

from benchmarks import kills

REFERENCE = Reference({}, {"extraction": {"a": 3.0, "b": 1.0, "c": 1.0}})


@pytest.mark.parametrize(
    ("begun", "done", "share"),
    [
        ([], 0, 0.0),
        (["b"], 0, 0.2),
        # A process makes again what the first unit of the stage had before it.
        (["b"], 1, 0.6),
        ([], 3, 0.0),
    ],
)
def test_what_was_begun_and_what_comes_before_is_done_again(
    begun: list[str], done: int, share: float
) -> None:
    assert REFERENCE.share("extraction", begun, done) == pytest.approx(share)


def test_a_kill_is_clean_when_nothing_shows() -> None:
    clean = Kill("fitting", "first", False, 0, [], 0, 0, 0.1)
    assert clean.is_clean
    for change in ({"code": 2}, {"different": ["scores"]}, {"lost": 1}, {"doubled": 1}):
        assert not Kill(**{**vars(clean), **change}).is_clean


def test_stages_are_counted_apart_and_together() -> None:
    some = [
        Kill("extraction", "first", False, 0, [], 0, 0, 0.02),
        Kill("fitting", "other", True, 2, ["scores"], 0, 1, 0.04),
    ]
    lines = _summary(some).splitlines()
    assert "| extraction | 1 | 1 | 0 | 1 | 1 | 0 | 0 | 2.0% (2.0%) |" in lines
    assert "| all | 2 | 1 | 1 | 1 | 1 | 0 | 1 | 3.0% (4.0%) |" in lines


@pytest.mark.slow
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--examples", "600", "--queries", "5", "--widths", "8", "6", "10"]
    with pytest.raises(SystemExit) as end:
        kills.main([*sizes, "--kills", "1", "--to", "describe_measurement"])
    assert end.value.code == 0
    assert "| all | 1 |" in capsys.readouterr().out
