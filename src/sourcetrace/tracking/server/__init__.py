"""MLflow's server, and what is done while it is away."""
