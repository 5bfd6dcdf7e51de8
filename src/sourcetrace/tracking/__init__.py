"""What MLflow is told besides parameters, metrics and artifacts."""
