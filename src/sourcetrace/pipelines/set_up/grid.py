"""The grid of an audit's work, chosen once: later runs, and all processes, go by the same one.

Batches, ranges and groups of layers decide the last bits of sums, and the names of units. They are
chosen by the time and memory that there are when an audit is first set up.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sourcetrace.core.model.examples import Block
from sourcetrace.datasets.gradient_cache import Policy
from sourcetrace.files import digest_of, read_optional_json
from sourcetrace.locks import shared_json
from sourcetrace.parameters import GradientParameters

_FILE = "grid.json"

_LONGEST = 600
"""Seconds of a unit of the later stages, which are at all points of a segment."""

_NEAR = 0.25
"""Share by which data may have grown or shrunk for whose like a grid was chosen."""


@dataclass(frozen=True)
class Grid:
    """How the work is cut.

    Attributes:
        batch_size: Examples a batch.
        range_size: Examples a unit of work, a whole number of batches.
        memory_bytes: By which layers are grouped.
        policy: Where gradients are kept.
        examples: How many it was chosen for.
    """

    batch_size: int
    range_size: int
    memory_bytes: int = 0
    policy: Policy = "recompute"
    examples: int = 0

    def ranges(self, examples: int) -> list[Block]:
        """Return consecutive ranges of the training examples."""
        return Block(0, examples).cut(self.range_size)

    def blocks(self, one: Block) -> list[Block]:
        """Return the batches of a range."""
        return one.cut(self.batch_size)


def grid_key(audit: Mapping[str, str], device: torch.device, gradients: GradientParameters) -> str:
    """Return a digest of what a grid is chosen for; more checkpoints, or examples, have the same.

    Args:
        audit: Part -> digest, of what units are made of but for the examples.
        device: Where it is computed.
        gradients: By which batches and groups of layers are chosen.
    """
    parts = {name: audit[name] for name in ("code", "task", "data", "audit") if name in audit}
    return digest_of([parts, device.type, gradients.batch_size, gradients.memory_gib])


def grid_for(grids: Mapping[str, Grid], key: str, examples: int) -> Grid | None:
    """Return the grid that was chosen for about as many examples, the nearest; None without one."""
    near = {
        abs(one.examples - examples): one
        for name, one in grids.items()
        if name.startswith(key) and abs(one.examples - examples) <= _NEAR * examples
    }
    return near[min(near)] if near else None


@contextmanager
def kept_grids(folder: Path) -> Iterator[MutableMapping[str, Grid]]:
    """Give what audits had, by what decides it, and keep what is added.

    Other processes wait meanwhile: the first one chooses.
    """
    with shared_json(folder / _FILE) as content:
        grids = {key: Grid(**one) for key, one in content.items()}
        yield grids
        content.update({key: asdict(one) for key, one in grids.items()})


def last_batch_size(folder: Path) -> int | None:
    """Return the examples a batch of the last audit for which a grid was chosen."""
    sizes = [one["batch_size"] for one in (read_optional_json(folder / _FILE) or {}).values()]
    return sizes[-1] if sizes else None


def range_size(batch_size: int, seconds: float, *, points: int, wanted: float) -> int:
    """Return the examples of a unit of work, a power of two of batches.

    Args:
        batch_size: Examples a batch.
        seconds: What an example takes at a point.
        points: At how many of them one unit takes an example at most.
        wanted: Seconds of a unit.
    """
    batches = min(wanted, _LONGEST / points) / (seconds * batch_size)
    return batch_size << max(0, int(batches).bit_length() - 1)
