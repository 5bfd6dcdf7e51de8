"""Which example of a batch an error is about.

A batch that raises says little: where `collate` joins what does not fit, or a label has no output,
the library's message names neither file nor example. The shortest beginning of the batch that fails
ends with the example at fault, whether it fails alone or only beside others.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from sourcetrace.core.engine.results import BlockSignals
from sourcetrace.core.machine.halving import is_out_of_memory
from sourcetrace.core.model.examples import Examples
from sourcetrace.errors import InputError, OtherDataError, with_place

_OF_BATCH = re.compile(r"^Example \d+ of the batch \(counted from 0\) ")
"""How a task begins that knows the example by its place alone."""

_Result = TypeVar("_Result")


class UnusableError(InputError):
    """Examples that cannot be evaluated, or not to finite numbers.

    Attributes:
        reasons: Number of the example -> why.
    """

    def __init__(self, message: str, reasons: Mapping[int, str]) -> None:
        super().__init__(message)
        self.reasons = reasons

    def without(self, rows: Tensor) -> Tensor:
        """Return those of some numbers that are none of theirs."""
        return rows[~torch.isin(rows, torch.tensor(list(self.reasons)))]


def blaming(work: Callable[[Tensor], _Result], examples: Examples) -> Callable[[Tensor], _Result]:
    """Return what runs a batch, with an error that names the example where it is one's.

    Args:
        work: Runs a batch; takes the numbers of its examples.
        examples: The data set.
    """

    def run(rows: Tensor) -> _Result:
        try:
            return work(rows)
        except Exception as error:  # the user's code may raise anything
            known = _named(error, work, examples, rows)
            if known is error:
                raise
            raise known from error

    return run


def refuse_infinite(found: object, examples: Examples, where: str) -> None:
    """Refuse examples of which a batch's passes give a number that is not finite.

    Args:
        found: What the passes gave, signals or with signals; else it is not looked at.
        examples: The data set.
        where: In the words of the error.

    Raises:
        UnusableError: If there are any; it names the first and has all.
    """
    signals = getattr(found, "signals", found)
    if not isinstance(signals, BlockSignals) or bool(signals.finite.all()):
        return
    numbers = signals.examples[~signals.finite.cpu()].tolist()
    reason = f"a NaN or infinite loss, measurement or gradient {where}"
    raise UnusableError(
        f"Example {examples.ids[numbers[0]]!r} (index {numbers[0]}) has {reason}. Check its inputs "
        "and label for missing values, and the loss for log(0).",
        dict.fromkeys(numbers, reason),
    )


def _named(
    error: Exception, work: Callable[[Tensor], object], examples: Examples, rows: Tensor
) -> Exception:
    """Return the error that names the example, or the error itself where that is no example's.

    Args:
        error: What `work` raised on all rows.
        work: Runs a batch.
        examples: The data set.
        rows: Numbers of the examples of the batch.
    """
    if isinstance(error, OtherDataError):
        return error
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return error
    ids = [examples.ids[i] for i in rows.tolist()]
    if "CUDA error" in str(error) or "device-side assert" in str(error):
        # The device answers nothing any more.
        return InputError(
            f"One of the examples {ids[0]!r} to {ids[-1]!r} (indices {int(rows[0])} to "
            f"{int(rows[-1])}) cannot be evaluated on the GPU: {_first_line(error)}. A usual "
            "cause is a label or token beyond what the model has. Set attribution.device to cpu to "
            "hear which example it is."
        )
    place = _shortest(work, rows) - 1
    number = int(rows[place])
    which = f"Example {ids[place]!r} (index {number})"
    steps = torch.tensor([1, len(examples) // 3, len(examples) // 2])
    of_task = place == 0 and all(
        _fails(work, one.view(1)) for one in (number + steps) % len(examples)
    )
    if isinstance(error, InputError):
        if of_task:
            return error  # any example would do
        reason = _OF_BATCH.sub("it ", str(error))
        return UnusableError(f"{which}: {reason}", {number: reason})
    reason = with_place(error, _first_line(error))
    message = (
        f"{which} cannot be evaluated: {reason}. Check its inputs and label: a value that is "
        "missing, of another shape or type than the others', or a label or token beyond what the "
        "model has. Correct it, or leave it out of data set and table."
    )
    return InputError(message) if of_task else UnusableError(message, {number: reason})


def _shortest(work: Callable[[Tensor], object], rows: Tensor) -> int:
    """Return how many of the first rows it takes to fail."""
    works, fails = 0, len(rows)
    while fails - works > 1:
        middle = (works + fails) // 2
        if _fails(work, rows[:middle]):
            fails = middle
        else:
            works = middle
    return fails


def _fails(work: Callable[[Tensor], object], rows: Tensor) -> bool:
    try:
        work(rows)
    except Exception:  # whatever the user's code raises
        return True
    return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
