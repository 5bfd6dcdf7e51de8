"""Real servers for tests: PostgreSQL and an MLflow server before it, on loopback.

`make services` runs them for you to look at; tests get them from the fixtures in `conftest.py`.
"""
