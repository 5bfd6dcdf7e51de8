"""What the suspects have in common, from tables and stored scores; no torch."""
