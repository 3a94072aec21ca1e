"""Dark Key-to-Door: a dark grid in which a hidden key must be found before a hidden door.

The task is the cell of the key and the cell of the door. The agent sees only its own position, not whether it has the
key. Five actions: stay, down, up, right, left. The first step onto the key's cell pays 1; after that the first step
onto the door's cell pays 1, so an episode is worth 2 at most. Published variants differ, each a named option:

    reward="once"        the episode goes on after the door (Laskin et al. 2022: 9x9, 50 steps, random start)
    reward="terminate"   the door ends the episode (AD^eps, arXiv 2312.12275: 9x9, 40 steps)
    reward="every_step"  every step at the door pays, once the key is held (RA-DT: 10x10)
    start="random"       uniform over the cells, drawn afresh each episode
    start="center", "corner"  always there; the corner is cell (0, 0)

What the papers leave open, decided here: a step is what earns, so where an episode begins earns nothing by itself, not
even on the key (staying there does); one step earns at most 1, so where key and door share a cell, the second step
there opens the door. All size^4 pairs are tasks, those with a shared cell included.

Source: Laskin et al. 2022 (arXiv 2210.14215), section 4.
"""

import dataclasses
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.grid import (
    Grid,
    Start,
    cells,
    distance,
    moved,
    random_walk,
    start_cell,
    start_distribution,
    toward,
    with_stage,
)
from ad_jax.files import JsonObject
from ad_jax.types import Array, PyTree


@struct.dataclass
class State(environment.EnvState):
    """Where the agent is, and what it has done in this episode."""

    position: Array  # [2] int32, (row, column)
    has_key: Array  # [] bool
    opened: Array  # [] bool, the door


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    key: Array = None  # [2] int32, (row, column)
    door: Array = None  # [2] int32, (row, column)


@dataclasses.dataclass(frozen=True)
class DarkKeyToDoor(Grid[State, Params]):
    """Options of Dark Key-to-Door: `size` cells a side, `steps` per episode."""

    steps: int = 50
    start: Start = "random"
    reward: Literal["once", "terminate", "every_step"] = "once"

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))

    def source_observation_space(self, params: Params) -> spaces.Box:
        return with_stage(self.size, 3)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        position = start_cell(key, self.size, self.start)
        state = State(jnp.int32(0), position, jnp.bool_(False), jnp.bool_(False))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        position = moved(state.position, action, self.size)
        takes = jnp.all(position == params.key) & ~state.has_key
        at_door = jnp.all(position == params.door) & state.has_key  # held before this step
        opens = at_door if self.reward == "every_step" else at_door & ~state.opened
        terminated = at_door if self.reward == "terminate" else jnp.bool_(False)
        state = State(state.time + 1, position, state.has_key | takes, state.opened | at_door)
        return self.observe(key, state, action, params), state, (takes | opens).astype(jnp.float32), terminated, {}

    def source_observation(self, state: State, observation: jax.Array) -> jax.Array:
        """Also how far the episode is: 0 without the key, 1 with it, 2 after the door; `[3]`."""
        return jnp.append(observation, state.has_key.astype(jnp.int32) + state.opened.astype(jnp.int32))

    def all_tasks(self) -> Params:
        key, door = np.divmod(np.arange(self.size**4), self.size**2)
        limit, cell = jnp.full(len(key), self.steps, jnp.int32), cells(self.size)
        return Params(cast(int, limit), jnp.asarray(cell[key]), jnp.asarray(cell[door]))

    def task_ids(self, tasks: Params) -> list[str]:
        pairs = zip(np.asarray(tasks.key), np.asarray(tasks.door))
        return [f"key-{key[0]}-{key[1]}-door-{door[0]}-{door[1]}" for key, door in pairs]

    def describe(self, task: Params) -> str:
        def where(cell):
            return f"at row {int(cell[0])}, column {int(cell[1])}"

        return f"key {where(task.key)}; door {where(task.door)}"

    def optimal_return(self, tasks: Params) -> np.ndarray:
        key, door = np.asarray(tasks.key), np.asarray(tasks.door)
        taken = np.maximum(distance(key[:, None], cells(self.size)), 1)  # [N, cells], by which step, from each start
        opened = taken + np.maximum(distance(key, door), 1)[:, None]
        worth = np.maximum(0, self.steps - opened + 1)
        value = (taken <= self.steps) + (worth if self.reward == "every_step" else np.minimum(worth, 1))
        return value @ start_distribution(self.size, self.start)

    def random_return(self, tasks: Params) -> np.ndarray:
        """Exact, from the random walk's transition matrix: where one is without the key, and where with it."""
        walk, number = random_walk(self.size), np.array([self.size, 1])
        key, door = np.asarray(tasks.key) @ number, np.asarray(tasks.door) @ number  # [N]
        rows = np.arange(len(key))
        without = np.tile(start_distribution(self.size, self.start), (len(key), 1))  # [N, cells]
        holding, total = np.zeros_like(without), np.zeros(len(key))
        for _ in range(self.steps):
            without, holding = without @ walk, holding @ walk
            total += without[rows, key] + holding[rows, door]
            if self.reward != "every_step":
                holding[rows, door] = 0
            holding[rows, key] += without[rows, key]
            without[rows, key] = 0
        return total

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        return toward(state.position, jnp.where(state.has_key, task.door, task.key))

    def destinations(self, task: Params) -> jax.Array:
        return jnp.stack([task.key, task.door])

    def picture(self, task: Params) -> JsonObject:
        def cell(leaf):
            return np.asarray(leaf).tolist()

        return {"kind": "grid", "size": self.size, "goal": cell(task.door), "key": cell(task.key)}
