"""Readers of what trainings wrote: weights, optimiser settings, learning rates."""
