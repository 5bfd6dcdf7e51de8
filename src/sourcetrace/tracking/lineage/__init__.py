"""What MLflow is told of an audit: run, data, checkpoints, version, card."""
