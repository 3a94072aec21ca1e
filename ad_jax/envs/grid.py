"""What the dark grids share: moves, starts, the random walk, and the way to a cell. Cells are (row, column).

As arrays over cells, cell (row, column) of a grid of `size` a side is number `row * size + column`.
"""

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import TEnvParams, TEnvState

from ad_jax.envs.base import TaskFamily
from ad_jax.keys import a_key

Start = Literal["center", "corner", "random"]
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
NAMES = ("stay", "down", "up", "right", "left")  # of MOVES


@dataclasses.dataclass(frozen=True)
class Grid(TaskFamily[TEnvState, TEnvParams]):
    """A dark grid, in which one sees one's own cell, the state's `position`, and nothing else; rewards are 0 or 1."""

    size: int = 9
    steps: int = 20
    start: Start = "center"

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def start_varies(self) -> bool:
        return self.start == "random" and self.size > 1

    def action_space(self, params: TEnvParams) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: TEnvParams) -> spaces.Box:
        return spaces.Box(0, self.size - 1, (2,), jnp.int32)

    def observe(self, key: jax.Array, state: TEnvState, action: jax.Array | None, params: TEnvParams) -> jax.Array:
        return cast(Any, state).position

    def starts_at(self, observation: jax.Array, params: TEnvParams) -> TEnvState:
        state = self.reset_env(a_key(0), params)[1]
        return cast(Any, state).replace(position=observation)

    def trace(self, state: TEnvState, action: jax.Array) -> jax.Array:
        return cast(Any, state).position


def start_cell(key: jax.Array, size: int, start: Start) -> jax.Array:
    """Where an episode begins, `[2]` int32. The key is consumed."""
    if start == "random":
        return jax.random.randint(key, (2,), 0, size, jnp.int32)
    return jnp.full((2,), size // 2 if start == "center" else 0, jnp.int32)


def moved(position: jax.Array, move: jax.Array, size: int) -> jax.Array:
    """Return the cell `[2]` that move number `move` leads to; walls hold it."""
    return jnp.clip(position + jnp.array(MOVES, jnp.int32)[move], 0, size - 1)


def toward(position: jax.Array, target: jax.Array) -> jax.Array:
    """Return the move, `[]` int32, of a shortest way from `position` to `target`: rows first, and stay once there."""
    rows, columns = target - position
    along_row = jnp.where(columns > 0, 3, jnp.where(columns < 0, 4, 0))
    return jnp.where(rows > 0, 1, jnp.where(rows < 0, 2, along_row)).astype(jnp.int32)


def cells(size: int) -> np.ndarray:
    """Every cell, `[cells, 2]` int32."""
    return np.stack(np.divmod(np.arange(size**2, dtype=np.int32), np.int32(size)), axis=1)


def with_stage(size: int, stages: int) -> spaces.Box:
    """Return the space of a position and a hidden stage of the episode: `[3]`, (row, column, 0..stages - 1)."""
    return spaces.Box(0, cast(Any, np.array([size - 1, size - 1, stages - 1])), (3,), jnp.int32)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return steps from `a` to `b`, both `[..., 2]`."""
    return np.abs(np.asarray(a) - np.asarray(b)).sum(-1)


def start_distribution(size: int, start: Start) -> np.ndarray:
    """Probability of starting in each cell, `[cells]` float64."""
    if start == "random":
        return np.full(size**2, size**-2.0)
    cell = size // 2 if start == "center" else 0
    return (np.arange(size**2) == cell * (size + 1)).astype(float)


def random_walk(size: int) -> np.ndarray:
    """Probability of each cell after one uniformly random move from each, `[cells, cells]` float64."""
    walk = np.zeros((size**2, size**2))
    for move in MOVES:
        reached = np.clip(cells(size) + move, 0, size - 1) @ np.array([size, 1])
        walk += np.eye(size**2)[reached.astype(int)] / len(MOVES)
    return walk
