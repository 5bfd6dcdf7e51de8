"""What an audit is besides scores, on plain tables: identity, comparison, gate."""
