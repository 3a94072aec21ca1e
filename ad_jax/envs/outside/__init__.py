"""Adapters of other libraries' environments, one file each; each is imported, and its library with it, when built."""
