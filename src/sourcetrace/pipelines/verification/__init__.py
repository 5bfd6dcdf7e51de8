"""Plan the retrainings, do them in parallel, and measure; the page shows it."""
