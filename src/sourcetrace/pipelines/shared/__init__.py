"""What the stages have in common: the set-up that runs once, and what they say and write."""
