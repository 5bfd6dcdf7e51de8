"""What the training run was: optimiser settings, learning rates of the steps, segments."""
