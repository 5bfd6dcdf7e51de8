"""Losses that tasks are made of, each with its curvature: the `loss` of a ready-made task."""

from sourcetrace.tasks.losses.binary import BinaryCrossEntropy, BinaryFocalLoss
from sourcetrace.tasks.losses.categorical import CrossEntropy, FocalLoss
from sourcetrace.tasks.losses.log_link import Gamma, Poisson, Tweedie
from sourcetrace.tasks.losses.loss import Loss
from sourcetrace.tasks.losses.numeric import (
    AbsoluteError,
    GaussianNLL,
    Huber,
    Quantile,
    SmoothL1,
    SquaredError,
)

__all__ = [
    "AbsoluteError",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "CrossEntropy",
    "FocalLoss",
    "Gamma",
    "GaussianNLL",
    "Huber",
    "Loss",
    "Poisson",
    "Quantile",
    "SmoothL1",
    "SquaredError",
    "Tweedie",
]
