"""What the suspects have in common, on plain tables."""
