"""Which example of a batch an error is about.

A batch that raises says little: where `collate` joins what does not fit, or a label has no output,
the library's message names neither file nor example. The shortest beginning of the batch that fails
ends with the example at fault, whether it fails alone or only beside others.
"""

import re
import traceback
from collections.abc import Callable

from torch import Tensor

from sourcetrace.core.machine.halving import is_out_of_memory
from sourcetrace.core.model.examples import Examples
from sourcetrace.errors import InputError

_OF_BATCH = re.compile(r"^Example \d+ of the batch \(counted from 0\) ")
"""How a task begins that knows the example by its place alone."""


def named(
    error: Exception, work: Callable[[Tensor], object], examples: Examples, rows: Tensor
) -> Exception:
    """Return the error that names the example, or the error itself where that is no example's.

    Args:
        error: What `work` raised on all rows.
        work: Runs a batch.
        examples: The data set.
        rows: Numbers of the examples of the batch.
    """
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
    if isinstance(error, InputError):
        if place == 0 and _fails(work, (rows[:1] + 1) % len(examples)):
            return error  # the task's: any example would do
        said = _OF_BATCH.sub("it ", str(error))
        return InputError(f"Example {ids[place]!r} (index {int(rows[place])}): {said}")
    at = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(
        f"Example {ids[place]!r} (index {int(rows[place])}) cannot be evaluated: "
        f"{type(error).__name__}: {_first_line(error)} ({at.filename}, line {at.lineno}). Check "
        "its inputs and label: a value that is missing, of another shape or type than the others', "
        "or a label or token beyond what the model has. Correct it, or leave it out of data set "
        "and table."
    )


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
