"""Dark Room: an empty grid with one hidden goal; the agent sees only its own position.

The task is the goal. Five actions: stay, down, up, right, left. Published variants differ, and their returns cannot be
compared, so each is a named option:

    reward="every_step"  1 on every step at the goal (Laskin et al. 2022, 9x9, 20 steps; AD^eps; DPT)
    reward="once"        1 the first time in an episode, which goes on (Laskin et al. 2022, "Hard", 17x17)
    reward="terminate"   1 at the goal, which ends the episode (Tarasov et al. 2025)
    start="center"       Laskin et al. 2022        start="corner"  cell (0, 0): DPT, RA-DT, 10x10, 100 steps
    start="random"       uniform over the cells, drawn afresh each episode

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
    """Where the agent is, and whether it has been at the goal in this episode."""

    position: Array  # [2] int32, (row, column)
    found: Array  # [] bool


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    goal: Array = None  # [2] int32, (row, column)


@dataclasses.dataclass(frozen=True)
class DarkRoom(Grid[State, Params]):
    """Options of Dark Room: `size` cells a side, `steps` per episode."""

    reward: Literal["every_step", "once", "terminate"] = "every_step"

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.zeros(2, jnp.int32))

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        state = State(jnp.int32(0), start_cell(key, self.size, self.start), jnp.bool_(False))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        position = moved(state.position, action, self.size)
        at_goal = jnp.all(position == params.goal)
        rewarded = at_goal & ~state.found if self.reward == "once" else at_goal
        terminated = at_goal if self.reward == "terminate" else jnp.bool_(False)
        state = State(state.time + 1, position, state.found | at_goal)
        return self.observe(key, state, action, params), state, rewarded.astype(jnp.float32), terminated, {}

    def source_observation_space(self, params: Params) -> spaces.Box | None:
        return with_stage(self.size, 2) if self.reward == "once" else None

    def source_observation(self, state: State, observation: jax.Array) -> jax.Array:
        """Where rewards come once, also whether it has come: `[3]`."""
        if self.reward != "once":
            return observation
        return jnp.append(observation, state.found.astype(jnp.int32))

    def all_tasks(self) -> Params:
        return self._tasks(jnp.asarray(cells(self.size)))

    def task_ids(self, tasks: Params) -> list[str]:
        return [f"goal-{row}-{column}" for row, column in np.asarray(tasks.goal)]

    def describe(self, task: Params) -> str:
        return f"goal at row {int(task.goal[0])}, column {int(task.goal[1])}"

    def optimal_return(self, tasks: Params) -> np.ndarray:
        # Standing on the goal at reset earns nothing by itself: the first reward comes with the first step.
        arrival = np.maximum(distance(np.asarray(tasks.goal)[:, None], cells(self.size)), 1)  # [N, cells]
        worth = np.maximum(0, self.steps - arrival + 1)
        value = worth if self.reward == "every_step" else np.minimum(worth, 1)
        return value @ start_distribution(self.size, self.start)

    def random_return(self, tasks: Params) -> np.ndarray:
        """Exact, from the random walk's transition matrix."""
        walk, goals = random_walk(self.size), np.asarray(tasks.goal) @ np.array([self.size, 1])  # [N]
        rows = np.arange(len(goals))
        start = start_distribution(self.size, self.start)
        at = np.tile(start, (len(goals), 1))  # [N, cells], absorbed mass removed below
        total = np.zeros(len(goals))
        for _ in range(self.steps):
            at = at @ walk
            total += at[rows, goals]
            if self.reward != "every_step":
                at[rows, goals] = 0
        return total

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        return self.optimal_label(state.position, task)

    def optimal_label(self, observation: jax.Array, task: Params) -> jax.Array:
        return toward(observation, task.goal)

    def destinations(self, task: Params) -> jax.Array:
        return task.goal[None]

    def picture(self, task: Params) -> JsonObject:
        return {"kind": "grid", "size": self.size, "goal": np.asarray(task.goal).tolist()}

    def _tasks(self, goals: jax.Array) -> Params:
        return Params(max_steps_in_episode=cast(int, jnp.full(len(goals), self.steps, jnp.int32)), goal=goals)
