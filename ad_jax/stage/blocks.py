"""Into how many blocks a CPU splits its learners, so that the states of a block stay in a core's own cache."""

import math

import jax
from jax.sharding import Mesh

from ad_jax.envs.base import TaskFamily
from ad_jax.keys import a_key
from ad_jax.sources.base import Source

# Bytes of the cache that the cores of a CPU share, and of one that a core has to itself: of small servers of today.
SHARED, CACHE = 2**24, 2**19
LEAST = 128  # learners side by side, below which an operation costs more to start than to do


def blocks_of(source: Source, family: TaskFamily, learners: int, mesh: Mesh) -> int:
    """Return into how many blocks `learners` of one device are split, each of which lives its whole lives by itself.

    On a CPU whose caches do not hold the states of all learners, so that every step would read them from memory, a
    block's learners lie in a core's own cache from birth to end. While all fit, side by side is no slower; and where
    only a few fit, as networks, a block would gain nothing. An accelerator wants all of them at once: one block.
    """
    if learners < 2 * LEAST or mesh.devices.flat[0].platform != "cpu":
        return 1
    leaves = jax.tree.leaves(jax.eval_shape(source.init, jax.eval_shape(lambda: a_key(0)), family.default_params))
    state = max(1, sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves))
    block = CACHE // state
    return 1 if learners * state <= SHARED or block < LEAST else max(1, learners // block)
