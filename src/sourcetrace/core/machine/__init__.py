"""What the machine can do: memory, halving, iterative solves, counted work."""
