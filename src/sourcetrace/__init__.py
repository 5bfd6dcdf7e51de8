"""Sourcetrace: which training examples made a PyTorch model behave as it does."""

__version__ = "0.1.0"
