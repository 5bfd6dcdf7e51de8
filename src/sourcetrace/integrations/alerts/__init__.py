"""One message to one address when an audit ends badly; without a row or a label of the data."""
