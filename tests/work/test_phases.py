"""What a stage's phases are made of is known to who has made none of them."""

from sourcetrace.work.ledger import Ledger, Unit
from sourcetrace.work.phases import Phases
from sourcetrace.work.team import Team


def _phase(name, count=3, stage="extraction", **parts):
    parts = {"code": "1", **parts}
    return [
        Unit(stage, f"{name}/{one}", {**parts, "reads": str(one)}, cost=1.0 + one)
        for one in range(count)
    ]


def _known(root, stage="extraction"):
    found = [one for phase in Phases(root).of(stage) for one in phase]
    return sorted(found, key=lambda one: one.name)


def test_phases_come_back_as_they_were(tmp_path):
    first, second, other = _phase("a"), _phase("b"), _phase("a", stage="fitting")
    phases = Phases(tmp_path)
    for phase in (first, second, other, first):
        phases.keep(phase)
    assert Phases(tmp_path).of("extraction") == [first, second]
    assert _known(tmp_path) == [*first, *second]
    assert [one.cost for one in _known(tmp_path)] == [one.cost for one in (*first, *second)]
    assert [one.identity for one in _known(tmp_path, "fitting")] == [one.identity for one in other]


def test_a_run_that_goes_on_keeps_what_it_has_not_reached_and_another_audit_s_begins_anew(tmp_path):
    first, second = _phase("a"), _phase("b")
    phases = Phases(tmp_path)
    phases.keep(first)
    phases.keep(second)
    Phases(tmp_path).keep(first)
    assert _known(tmp_path) == [*first, *second]
    changed = _phase("a", data="2")
    Phases(tmp_path).keep(changed)
    assert _known(tmp_path) == changed


def test_what_is_left_of_a_phase_is_no_phase_of_its_own(tmp_path):
    first, second = _phase("a"), _phase("b")
    phases = Phases(tmp_path)
    for units in (first[1:], second, first[:1]):
        phases.keep(units)
    assert Phases(tmp_path).of("extraction") == [first[1:], second, first[:1]]
    phases = Phases(tmp_path / "again")
    phases.keep(first)
    phases.keep(second)
    for units in (first[1:], second[:1]):
        Phases(tmp_path / "again").keep(units)
    assert Phases(tmp_path / "again").of("extraction") == [first, second]


def test_the_first_of_a_team_keeps_them_before_they_are_done(tmp_path):
    def do(unit, _):
        assert _known(tmp_path) == units
        assert unit in units

    units = _phase("a")
    Team(Ledger(tmp_path), rank=1, size=2).run([], do, "nothing")
    Team(Ledger(tmp_path)).run(units, do, "units")
