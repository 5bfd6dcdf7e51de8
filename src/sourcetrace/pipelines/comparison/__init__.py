"""Compared before the gate judges, kept for the next audit after verdict and page are written."""
