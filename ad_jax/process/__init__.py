"""Processes on their machines: several as one, signals, locks, logs, memory, switches of JAX."""
