"""Train again on cleaned data, and measure whether the model got better by it."""
