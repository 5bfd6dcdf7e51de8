"""The user's model on a batch: objective, examples, weights, dropout masks, precision."""
