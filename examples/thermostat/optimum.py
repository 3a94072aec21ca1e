"""Value iteration in buildings that are known: what the other controllers are held against.

A value is the least cost of the days to come from a step of the day on, by the temperatures of air and mass, on a grid
with linear interpolation between, and by the heat that is under way. The weather is as usual in the season. Whoever
acts by it looks one step ahead, in the weather as it is, and knows when the heater has failed.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from examples.thermostat.world import DAY, LEVELS, SLOWEST, Building, State, live

COLDEST, WARMEST = 8.0, 26.0
SHARES = np.arange(LEVELS, dtype=np.float32) / (LEVELS - 1)
UNDER_WAY = np.array(list(itertools.product(SHARES, repeat=SLOWEST)))  # [Q, SLOWEST]
WEIGHTS = (LEVELS - 1) * LEVELS ** np.arange(SLOWEST)[::-1]  # of shares of power in their row of it


def read(value: jax.Array, state: State) -> jax.Array:
    """Return the value of a state, `[]`, from those on the grid, `[P, P, Q]`."""
    scale = (len(value) - 1) / (WARMEST - COLDEST)
    row = jnp.sum(state.asked * WEIGHTS)
    place = [(state.air - COLDEST) * scale, (state.mass - COLDEST) * scale, row]
    return map_coordinates(value, place, order=1, mode="nearest")


def levels_cost(value: jax.Array, state: State, task: Building) -> jax.Array:
    """Return the cost of each level and of what comes after it, `[LEVELS]`; `value` is that of the next step."""

    def cost(level):
        after, now = live(state, level, task)
        return now + read(value, after)

    return jax.vmap(cost)(jnp.asarray(SHARES))


def values(task: Building, season: jax.Array, points: int, days: int) -> jax.Array:
    """Return the values at each step of the day, `[DAY, P, P, Q]`, with so many days to come."""
    grid = jnp.linspace(COLDEST, WARMEST, points)
    air, mass, row = (x.reshape(-1) for x in jnp.meshgrid(grid, grid, jnp.arange(len(UNDER_WAY)), indexing="ij"))
    asked = jnp.asarray(UNDER_WAY)[row]

    def before(value, time):
        def best(air, mass, asked):
            return levels_cost(value, State(time, air, mass, season, jnp.zeros(()), asked), task).min()

        value = jax.vmap(best)(air, mass, asked).reshape(value.shape)
        return value, value

    later = jnp.zeros((points, points, len(UNDER_WAY)))
    return jax.lax.scan(before, later, jnp.arange(days * DAY)[::-1] % DAY)[1][-DAY:][::-1]


def value_iteration(buildings: Building, points: int = 13, days: int = 3) -> Callable[..., np.ndarray]:
    """Return the controller; it computes its values, of whole and of failed heaters, when it first sees the season."""
    table = None

    @jax.jit
    def solve(season):
        def of_one(row):
            task, season = row
            return jnp.stack([values(dataclasses.replace(task, halves=day), season, points, days) for day in (1, 0)])

        return jax.lax.map(of_one, (buildings, season))

    @jax.jit
    def decide(table, state):
        def of_one(table, state, task):
            failed = (state.time >= task.halves * DAY).astype(jnp.int32)
            return jnp.argmin(levels_cost(table[failed, (state.time + 1) % DAY], state, task))

        return jax.vmap(of_one)(table, state, buildings)

    def act(observation, reward, state):
        nonlocal table
        table = solve(state.season) if table is None else table
        return np.asarray(decide(table, state))

    return act
