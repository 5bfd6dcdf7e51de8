"""MLflow: the history of audits, their lineage, the server's absence, scheduling."""
