"""Hold the audit against the limits that are set; the last node raises where it fails."""
