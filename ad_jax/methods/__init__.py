"""How an in-context learner is made."""
