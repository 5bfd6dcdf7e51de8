"""What the machine can do: memory, halving, eigenvectors, iterative solves, counted work."""
