"""Settings every test shares."""

import torch

# The networks are tiny: starting threads costs more than they save.
torch.set_num_threads(1)
