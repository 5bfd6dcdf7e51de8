"""Kinds of problems beside a wrong label, each with a score in [0, 1], on plain tables."""
