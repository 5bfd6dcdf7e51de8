"""Take what people decided: into the log, and into the manifest of cleaned data."""
