"""The grid of an audit's work, chosen once: later runs, and all processes, go by the same one.

Batches and ranges decide the last bits of sums, and the names of units.
"""

from dataclasses import dataclass

from sourcetrace.core.model.examples import Block


@dataclass(frozen=True)
class Grid:
    """How the work is cut.

    Attributes:
        batch_size: Examples a batch.
        range_size: Examples a unit of work, a whole number of batches.
    """

    batch_size: int
    range_size: int

    def ranges(self, examples: int) -> list[Block]:
        """Return consecutive ranges of the training examples."""
        return _cut(Block(0, examples), self.range_size)

    def blocks(self, one: Block) -> list[Block]:
        """Return the batches of a range."""
        return _cut(one, self.batch_size)


def _cut(whole: Block, size: int) -> list[Block]:
    starts = range(whole.start, whole.stop, size)
    return [Block(start, min(start + size, whole.stop)) for start in starts]
