"""What the command line understands and lists. `ad_jax.__main__` runs it."""
