"""See `fuzz`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.checkpoints import fuzz

parser = argparse.ArgumentParser(description=fuzz.__doc__)
parser.add_argument("--inputs", type=int, default=2000)
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()
with tempfile.TemporaryDirectory() as place:
    model, folders = fuzz.write_all(Path(place))
    outcomes, failures = fuzz.run(folders, model, inputs=asked.inputs, seed=asked.seed)
print(*failures, dict(outcomes), sep="\n")
sys.exit(bool(failures))
