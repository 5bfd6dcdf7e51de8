"""Gradients on demand: passes over batches, what is kept of them, samples of a run."""
