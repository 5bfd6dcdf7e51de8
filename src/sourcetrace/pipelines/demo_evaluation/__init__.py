"""Outside the audit: the only place where its list meets the planted truth."""
