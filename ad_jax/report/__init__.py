"""From `results.json` to statistics, figures and a page. Imports no JAX."""
