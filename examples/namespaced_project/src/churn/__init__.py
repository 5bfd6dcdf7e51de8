"""A team's own project: it trains a churn model, and audits what it was trained on."""
