"""Kinds of layers whose gradient is an outer product, one module a kind."""
