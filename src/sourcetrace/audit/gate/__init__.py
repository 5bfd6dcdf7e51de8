"""The gate: what an audit measured, held against limits that a team has set.

Pure functions; `pipelines/gate` joins them to files and raises when the gate fails.
"""
