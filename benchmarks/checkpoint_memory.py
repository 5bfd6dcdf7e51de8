"""What reading many checkpoints holds in memory: `python -m benchmarks.checkpoint_memory`.

Writes checkpoints of one wide layer to a temporary folder, reads them as an audit does, first the
ingest's way and then visit by visit, and prints the peak beside the model. Linux alone says it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, then read in a process of its own, whose peak is that of reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--width", type=int, default=5000, help="of the layer; 5000: 100 MB")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    model = nn.Linear(asked.width, asked.width, bias=False)
    if asked.folder is not None:
        _read(asked.folder, model)
        return
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tempfile.TemporaryDirectory() as place:
        for step in range(1, asked.checkpoints + 1):
            content = {
                "step": step,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
            }
            torch.save(content, Path(place) / f"step_{step:06d}.pt")
        here = [sys.executable, "-m", "benchmarks.checkpoint_memory"]
        subprocess.run([*here, "--folder", place, "--width", str(asked.width)], check=True)


def _read(place: Path, model: nn.Module) -> None:
    size = sum(one.numel() * one.element_size() for one in model.parameters())
    folder, before, found = CheckpointFolder(place), _peak(), []
    for file in folder.files():
        if found:
            found[-1] = replace(found[-1], state_dict={})
        found.append(folder.load(file, model))
    found[-1] = replace(found[-1], state_dict={})
    for one in found:
        model.load_state_dict(folder.weights(one.file, one.sha256, model))
    held = _peak() - before
    print(
        f"{len(found)} checkpoints of {size / 1e6:.0f} MB: {held / 1e6:.0f} MB beside the model, "
        f"{held / size:.1f} checkpoints"
    )


def _peak() -> int:
    """Return the most that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
