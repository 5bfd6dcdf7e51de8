"""What retraining on cleaned data gained, in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from sourcetrace.formats import format_noun, format_number
from sourcetrace.reporting.tables import Columns, Table
from sourcetrace.validation import JsonRecord


@dataclass(frozen=True)
class CleaningGain(JsonRecord):
    """One measure before and after; every gain is above 0 where cleaning made it better.

    Attributes:
        measure: measurement (the task's, of the mean query), accuracy or loss.
        before, after: Mean over the seeds.
        gain, low, high: And its 95 % interval (Student's t) over paired seeds.
        random: Gain of as many changes at random; None without them, as the next three.
        over_random, over_random_low, over_random_high: Gain over these, and its interval.
    """

    measure: str
    before: float
    after: float
    gain: float
    low: float
    high: float
    random: float | None
    over_random: float | None
    over_random_low: float | None
    over_random_high: float | None


@dataclass(frozen=True)
class MeasuredCleaning(JsonRecord):
    """What retraining with and without changes to the training data said.

    Attributes:
        scores_digest: SHA-256 of the audit's scores.
        of: Whether the changes were decisions or suggestions.
        removed, relabelled: Training examples.
        seeds: Retrainings of each.
        random: Draws of as many changes at random, of the same classes.
        held_out: Whether the gain was measured on examples that no audit reads.
        examples: On how many it was measured.
        predicted: Gain in the queries' mean measurement that the scores predict for removing all
            of these examples.
        gains: Of each measure; the measurement first.
        split: Whether half of the queries suggested, and the other half measured.
    """

    scores_digest: str
    of: str
    removed: int
    relabelled: int
    seeds: int
    random: int
    held_out: bool
    examples: int
    predicted: float
    gains: tuple[CleaningGain, ...]
    split: bool = False

    def sentences(self) -> Iterator[str]:
        """Yield the verdict, what the scores had said, and what it was measured on."""
        one = next((g for g in self.gains if g.measure == "accuracy"), self.gains[0])
        what = f"{_change(one.gain)} in {_NAMES[one.measure]}, 95 % interval {_span(one)}"
        verdict = "Cleaning helps" if one.low > 0 else "No gain is shown"
        if one.high < 0:
            verdict = "Cleaning hurts"
        yield (
            f"{verdict}: {what}, over {format_noun(self.seeds, 'paired seed')}, with "
            f"{self.removed} removed and {self.relabelled} relabelled by {self.of}."
        )
        mean = self.gains[0]
        yield (
            f"The mean measurement changed by {_change(mean.gain)} ({_span(mean)}); the scores "
            f"predicted {_change(self.predicted)} for the queries, had all of these examples been "
            "removed."
        )
        if one.random is not None:
            yield f"The same changes of random examples of the same classes: {_change(one.random)}."
        if self.held_out:
            yield f"Measured on {format_noun(self.examples, 'held-out example')}."
        elif self.split:
            yield f"Suggested by half of the queries, and measured on the other {self.examples}."
        else:
            yield (
                f"Measured on the {format_noun(self.examples, 'query', 'queries')} that selected "
                "the suspects: the gain on other data may be smaller."
            )

    def table(self) -> Table:
        """Return a row a measure."""
        columns: Columns = {
            "Measure": ("word", lambda g: _NAMES[g.measure]),
            "Before → after": ("number", lambda g: (g.before, g.after)),
            "Gain": ("signed", "gain"),
            "95 % interval": ("numbers", _span),
            "Random changes": ("signed", "random"),
            "Gain over random": ("signed", "over_random"),
        }
        note = "A gain is above 0 where it is better. The intervals are over paired seeds."
        return Table.of("Trained again on cleaned data", columns, self.gains, note)


_NAMES = {"measurement": "mean measurement", "accuracy": "accuracy", "loss": "mean loss"}


def _change(value: float) -> str:
    return format_number(value, signed=True)


def _span(gain: CleaningGain) -> str:
    return f"{_change(gain.low)} to {_change(gain.high)}"
