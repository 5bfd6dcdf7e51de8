"""Which registered versions need an audit."""
