"""The history of audits on this machine: sealed lines, and the reports of each version."""
