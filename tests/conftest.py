"""Settings every test shares."""

import os

# The networks are tiny: starting threads costs more than they save, and those of two tests at once
# wait for each other. For the commands that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
