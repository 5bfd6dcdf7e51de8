"""Progress bars with the time left, on a terminal and in a log alike."""

from collections.abc import Iterable, Iterator, Sized
from multiprocessing import parent_process
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_Item = TypeVar("_Item")


class _Progress:
    hidden = False


def hide_progress() -> None:
    """Show none in this process, which is one of several."""
    _Progress.hidden = True


def track(items: Iterable[_Item], description: str, *, total: int | None = None) -> Iterator[_Item]:
    """Yield the items, showing how many are done and the time left, on standard error.

    A process that another one started, of several at a time, shows nothing.

    Args:
        items: What is gone through.
        description: Of the work.
        total: How many items, where they cannot be counted.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = _Progress.hidden or parent_process() is not None
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        yield from progress.track(items, total=total, description=description)
