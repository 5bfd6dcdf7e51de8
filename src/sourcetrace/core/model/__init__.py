"""The user's model on a batch: objective, examples, weights, precision."""
