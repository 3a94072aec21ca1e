"""A tiny Watermaze, and poses all over a pool."""

import numpy as np

from ad_jax.envs.watermaze import BODY, RADIUS, TURN, Watermaze

TINY = Watermaze(height=12, width=16, steps=10)


def poses(count: int, seed: int = 0) -> np.ndarray:
    """Return stored poses `[count, 3]` int32 all over the pool, some against the wall and on the axes."""
    rng = np.random.default_rng(seed)
    distance = (RADIUS - BODY) * np.sqrt(rng.random(count))
    distance[::7] = RADIUS - BODY
    angle, heading = 2 * np.pi * rng.random(count), rng.integers(0, TURN, count)
    angle[::5], heading[::3] = (
        np.pi / 2 * rng.integers(0, 4, len(angle[::5])),
        512 * rng.integers(0, 8, len(angle[::3])),
    )
    place = np.trunc(distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.int32)
    return np.concatenate([place + RADIUS, heading[:, None].astype(np.int32)], axis=1)
