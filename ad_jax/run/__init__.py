"""A run directory and the stages on it."""
