"""Per-example gradients as algebra, dense, factored and indexed, and how they are captured."""
