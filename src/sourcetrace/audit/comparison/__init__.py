"""An audit beside the one before it: plain tables and numbers, without Kedro and MLflow."""
