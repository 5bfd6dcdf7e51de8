"""What is done of an audit, and what a run would do."""
