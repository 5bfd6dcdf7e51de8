"""What an audit was made of: digests of data, code and parameters."""
