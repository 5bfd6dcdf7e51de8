"""What the numerical stages work with: made once a run, by a node that all of them have."""
