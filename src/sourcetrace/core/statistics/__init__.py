"""Rank correlation, retraining statistics, uncertainty, spectra in a few numbers."""
