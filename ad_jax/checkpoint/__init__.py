"""Checkpoints: what is saved, by whom, and whether it is what a run says it is."""
