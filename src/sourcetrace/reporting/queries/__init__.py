"""Single queries: what is stored of them, and how it is shown."""
