"""Every check of an audit at once, and what the audit will take, before it starts."""
