"""Label quality by cleanlab, for `label_errors.py`, in an environment that has it.

python -m benchmarks.label_errors_cleanlab FILE.npz…
"""

import sys
from pathlib import Path

import numpy as np
from cleanlab.rank import get_label_quality_scores
from cleanlab.regression.rank import get_label_quality_scores as get_target_quality_scores


def main() -> None:
    """Write FILE.quality.npy beside each file: low values are suspect."""
    for name in sys.argv[1:]:
        content = np.load(name)
        given, held_out = content["given"], content["held_out"]
        if held_out.ndim == 1:
            quality = get_target_quality_scores(given.ravel(), held_out)
        else:
            held_out = held_out.astype(np.float64)
            held_out /= held_out.sum(1, keepdims=True)
            quality = get_label_quality_scores(given, held_out)
        np.save(Path(name).with_suffix(".quality.npy"), quality)


if __name__ == "__main__":
    main()
