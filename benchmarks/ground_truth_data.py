"""Inputs and targets of a ground truth's folder, as its training saw them."""

from typing import Any

import torch
from torch import Tensor


def read_side(data: Any, side: str) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of one side, `train` or `query`.

    Args:
        data: What `numpy.load` returned of data.npz.
        side: Which examples.
    """
    if f"{side}_inputs" in data:
        return torch.from_numpy(data[f"{side}_inputs"]), torch.from_numpy(data[f"{side}_targets"])
    images = torch.from_numpy(data[f"{side}_images"])
    if images.dtype == torch.uint8:  # otherwise the normalisation is already applied
        images = (images.flatten(1).float() / 255 - 0.1307) / 0.3081
    return images, torch.from_numpy(data[f"{side}_labels"])
