"""The stages, one verb a file; none imports another."""
