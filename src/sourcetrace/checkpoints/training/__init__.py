"""What a checkpoint says of its training: the optimiser, its second moments, learning rates."""
