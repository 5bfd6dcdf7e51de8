"""What people decided about examples: checked, carried forward by content, applied to the data."""
