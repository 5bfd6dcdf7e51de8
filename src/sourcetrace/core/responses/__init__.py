"""Queries propagated back through the segments, exactly or by low-rank sums."""
