"""The receiver of MLflow's registry webhooks: a signed message in, a waiting audit out."""
