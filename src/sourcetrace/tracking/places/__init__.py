"""Where checkpoints and learning rates lie: MLflow's addresses, and any other, made local."""
