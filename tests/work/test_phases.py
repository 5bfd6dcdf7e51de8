"""What a stage's phases are made of is known to who has made none of them."""

import time

from sourcetrace.work import phases
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.phases import Phase, Phases
from sourcetrace.work.team import Team
from sourcetrace.work.unit import Unit


def _phase(name, count=3, stage="extraction", **parts):
    parts = {"code": "1", **parts}
    return [
        Unit(stage, f"{name}/{one}", {**parts, "reads": str(one)}, cost=1.0 + one)
        for one in range(count)
    ]


AUDIT = {"data": "1"}


def _keep(root, *own, audit=AUDIT):
    kept = Phases(root)
    for units in own:
        kept.keep(Phase(audit, units))


def _known(root, stage="extraction"):
    return [one.units for one in Phases(root).of(stage)]


def test_phases_come_back_as_they_were(tmp_path):
    first, second, other = _phase("a"), _phase("b"), _phase("a", stage="fitting")
    _keep(tmp_path, first, second, other, first)
    assert _known(tmp_path) == [first, second]
    costs = [[unit.cost for unit in units] for units in (first, second)]
    assert [[unit.cost for unit in units] for units in _known(tmp_path)] == costs
    (fitting,) = Phases(tmp_path).of("fitting")
    assert fitting.audit == AUDIT
    assert [one.identity for one in fitting.units] == [one.identity for one in other]


def test_a_run_that_goes_on_keeps_what_it_has_not_reached_and_another_audit_s_begins_anew(tmp_path):
    first, second = _phase("a"), _phase("b")
    _keep(tmp_path, first, second)
    for units in (first, first[1:], second[:1]):
        _keep(tmp_path, units)
    assert _known(tmp_path) == [first, second]
    # The same units may be another audit's, which has fewer of them.
    _keep(tmp_path, first, audit={"data": "2"})
    assert _known(tmp_path) == [first]
    cut_otherwise = _phase("a", grid="2")
    _keep(tmp_path, cut_otherwise, audit={"data": "2"})
    assert _known(tmp_path) == [cut_otherwise]
    assert [one.units for one in Phases(tmp_path).of("extraction", AUDIT)] == [first, second]


def test_the_last_audits_are_kept(tmp_path):
    for number in ("1", "2", "3", "1"):
        _keep(tmp_path, _phase("a", data=number), audit={"data": number})
        time.sleep(0.01)  # a file system's clock
    kept = Phases(tmp_path).before("extraction", {"data": "1"}, 1)
    assert kept == _phase("a", data="3")
    assert Phases(tmp_path).before("extraction", {"data": "1"}, 2) == kept


def test_the_first_of_a_team_keeps_them_before_they_are_done(tmp_path):
    def do(unit, _):
        assert _known(tmp_path) == [units]

    units = _phase("a")
    Team(Ledger(tmp_path), rank=1, size=2).run([], do, "nothing")
    Team(Ledger(tmp_path), parts_for=lambda stage: {"data": stage}).run(units, do, "units")
    assert [one.audit for one in Phases(tmp_path).of("extraction")] == [{"data": "extraction"}]


def test_who_asks_while_another_audit_begins_hears_of_what_is_there(tmp_path, monkeypatch):
    first, second = _phase("a"), _phase("b")
    _keep(tmp_path, first, second)
    files = phases._files

    def gone_since(folder):
        found = files(folder)
        found[0].unlink()
        return found

    monkeypatch.setattr(phases, "_files", gone_since)
    assert _known(tmp_path) == [second]
