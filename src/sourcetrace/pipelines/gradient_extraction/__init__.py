"""Gradients of every example at every checkpoint: the set-up, then all forward passes."""
