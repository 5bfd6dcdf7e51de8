"""Which examples look wrong, how sure that is, and what to do about them; on plain tables."""
