"""JAX's own switches: those that would change numbers are set within, whatever the user's environment says.

Elsewhere keys name their implementation and arrays their types. What remains is in libraries, whose schedules would be
computed in 64 bits, and in how JAX deals random bits to the places of an array. The precision of products on an
accelerator (`jax_default_matmul_precision`) is left to the user: results agree to that precision.
"""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Arrays of at most 32 bits, and random bits dealt as JAX does by default, for all that is traced or run within."""
    with jax.enable_x64(False), jax.threefry_partitionable(True):
        yield
