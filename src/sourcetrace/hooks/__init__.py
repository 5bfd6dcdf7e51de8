"""All Kedro hooks of the project."""
