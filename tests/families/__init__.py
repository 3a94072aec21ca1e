"""Task families as users write them, unlike our own; `audit` recomputes every number that is reported of them."""
