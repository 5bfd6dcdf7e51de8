"""Audits under faults: servers that die, full disks, kills, clocks, races.

`python -m tests.services.faults` runs all of them and prints the table of docs/reference/faults.md.
"""
