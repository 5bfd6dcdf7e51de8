"""Compare what is stored with what an audit is made of now, and change nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from kedro.pipeline import Pipeline

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets.audited import AuditedDataset, Fault, StoredAudit
from sourcetrace.formats import format_names, format_noun
from sourcetrace.parameters import StatusParameters
from sourcetrace.pipelines.audit import STAGES
from sourcetrace.pipelines.shared.step import step
from sourcetrace.reporting.records import AuditStatus, StageStatus
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.phases import Phase, Phases
from sourcetrace.work.unit import Unit

_ALWAYS = {"checkpoint_ingest": "read the inputs again", "cleaning_report": "write what changed"}
"""What every run does of the stages without units."""


def report_status(stored_audit: StoredAudit, status: StatusParameters) -> AuditStatus:
    """Return what is done of every stage, and what `kedro run --pipelines audit` would do."""
    ledger = Ledger(stored_audit.units)
    ledger.refresh()
    stages = [
        _Stage(name, stored_audit.now, stored_audit.of(name), ledger, reads=status.check)
        for name in STAGES
    ]
    return AuditStatus(
        stages=tuple(one.status() for one in stages),
        checked=status.check,
        left=sum(len(ledger.others(one.name, one.units)) for one in stages),
        folder=str(stored_audit.units),
    )


@dataclass(frozen=True)
class _Stage:
    """What is stored of a stage.

    Attributes:
        name: Its pipeline.
        now: What the audit is made of now; None where nothing was ingested.
        results: File -> its data set.
        ledger: Of the units.
        reads: Whether every byte is looked at.
    """

    name: str
    now: MadeOf | None
    results: Mapping[str, AuditedDataset]
    ledger: Ledger
    reads: bool

    def status(self) -> StageStatus:
        """Return its line."""
        always = _ALWAYS.get(self.name)
        return StageStatus(
            stage=self.name,
            state=self._state(),
            run=always or self._run(),
            seconds=None if always else self._seconds(),
        )

    @cached_property
    def units(self) -> list[Unit]:
        """Of today's audit, as far as its phases have begun."""
        return [unit for one in self._today for unit in one.units]

    def _state(self) -> str:
        done, sound = len(self.units) - len(self._to_do), len(self.results) - len(self._faults)
        different = [one.different for one in self._faults.values()]
        different += map(self._different, self._phases)
        words = dict.fromkeys(word for text in different for word in text.split("; ") if word)
        damaged = [name for name, one in self._faults.items() if one.kind == "damaged"]
        damaged += [f"unit {one.name}" for one in self._damaged]
        if damaged:
            return f"damaged: {format_names(damaged)}"
        if sound and not self._faults:
            gone = f", but {len(self._to_do):,} units are gone" if self._to_do else ""
            return f"done{self._kept}{gone}"
        if done:
            return f"partly done ({done:,} of {format_noun(len(self.units), 'unit')})"
        if words:
            return f"out of date: {'; '.join(words)}"
        if sound:
            return f"partly done ({sound} of {format_noun(len(self.results), 'result')})"
        return "not begun"

    @property
    def _kept(self) -> str:
        """Return in words whose curvature is behind the scores, if that of other data."""
        for file, result in self.results.items():
            if Path(file).stem == "kept_curvature" and (found := result.load()):
                return f" with the {found['earlier']}"
        return ""

    def _run(self) -> str:
        if not self.units or len(self._to_do) == len(self.units):
            return "do what changed" if self._phases and not self.units else "do all of it"
        later = " and what follows them" if self._faults else ""
        if self._to_do:
            return f"do {format_noun(len(self._to_do), 'unit')}{later}"
        return "do what follows its units" if self._faults else "take what is there"

    def _seconds(self) -> float | None:
        """Return what is left takes, by the units of the same phase that are known."""
        total = 0.0
        for phase in self._phases:
            took = {one: self.ledger.seconds(one) for one in phase.units}
            known = {one: seconds for one, seconds in took.items() if seconds is not None}
            changed = bool(self._different(phase))
            left = sum(one.cost for one in phase.units if changed or one in self._to_do)
            if left and not known:
                return None
            if left:
                total += left * sum(known.values()) / sum(one.cost for one in known)
        return total if self._phases else None

    @cached_property
    def _faults(self) -> dict[str, Fault]:
        if self.now is None:
            return {name: Fault("missing", "") for name in self.results}
        faults = {name: one.fault(reads=self.reads) for name, one in self.results.items()}
        return {name: one for name, one in faults.items() if one is not None}

    @cached_property
    def _phases(self) -> list[Phase]:
        audit = self.now.parts_for(self.name) if self.now else None
        return Phases(self.ledger.root).of(self.name, audit)

    @cached_property
    def _today(self) -> list[Phase]:
        return [one for one in self._phases if not self._different(one)]

    @cached_property
    def _gone(self) -> set[Unit]:
        return {one for one in self.ledger.missing(self.units) if self.ledger.is_logged(one)}

    @cached_property
    def _damaged(self) -> list[Unit]:
        there = [one for one in self.units if self.ledger.is_logged(one) and one not in self._gone]
        return [one for one in there if self.reads and self.ledger.damaged_file(one)]

    @cached_property
    def _to_do(self) -> set[Unit]:
        """Return what is missing in the last phase that has begun and later, or gone since."""
        over = self.ledger.is_over
        left = [[one for one in phase.units if not over(one)] for phase in self._today]
        # A phase begins when the one before has ended; who has joined the logs forgot what was
        # dropped since.
        begun = [any(map(over, phase.units)) for phase in self._today]
        last = max((place for place, one in enumerate(begun) if one), default=0)
        return {*chain(*left[last:]), *self._gone, *self._damaged}

    def _different(self, phase: Phase) -> str:
        """Return in words what a phase was made with that the audit has otherwise now."""
        if self.now is None:
            return "not known data"
        parts = {name: phase.audit.get(name, "") for name in self.now.parts_for(self.name)}
        return replace(self.now, **parts).differences(self.now, self.name)


PIPELINE = Pipeline([step(report_status, "audit_status")])
