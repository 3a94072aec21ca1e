"""Dark Room with permuted actions: the task is the goal and what each of the five actions does.

Action a makes move `moves[a]` (stay, down, up, right, left), so tasks differ in their dynamics too, and a policy that
is right in one is wrong in another. Everything else is as in `dark_room.py`, all of its options included.

    goals="any"     goals x 5! permutations, 9720 tasks at 9x9
    goals="corner"  the goal is the last cell, (size - 1, size - 1): 120 tasks, which differ in dynamics alone. With
                    start="corner", size=10, steps=100 this is the Darkroom (Permuted) of DPT (Lee et al. 2023, arXiv
                    2306.14892), but for the numbers of the actions
"""

import dataclasses
import itertools
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ad_jax.envs import dark_room
from ad_jax.envs.dark_room import DarkRoom, State
from ad_jax.envs.grid import MOVES, NAMES, cells
from ad_jax.types import Array, PyTree


@struct.dataclass
class Params(dark_room.Params):
    """The task."""

    moves: Array = None  # [5] int32, a permutation: the number of the move that each action makes


@dataclasses.dataclass(frozen=True)
class DarkRoomPermuted(DarkRoom):
    """Options of permuted Dark Room."""

    goals: Literal["any", "corner"] = "any"

    @property
    def default_params(self) -> Params:
        plain = super().default_params
        return Params(plain.max_steps_in_episode, plain.goal, jnp.arange(len(MOVES), dtype=jnp.int32))

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: dark_room.Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        return super().step_env(key, state, cast(Params, params).moves[action], params)

    def all_tasks(self) -> Params:
        every = cells(self.size) if self.goals == "any" else cells(self.size)[-1:]
        orders = np.array(list(itertools.permutations(range(len(MOVES)))), np.int32)
        goal, order = np.divmod(np.arange(len(every) * len(orders)), len(orders))
        limit = jnp.full(len(goal), self.steps, jnp.int32)
        return Params(cast(int, limit), jnp.asarray(every[goal]), jnp.asarray(orders[order]))

    def task_ids(self, tasks: dark_room.Params) -> list[str]:
        orders = np.asarray(cast(Params, tasks).moves)
        return [f"{goal}-moves-{''.join(map(str, order))}" for goal, order in zip(super().task_ids(tasks), orders)]

    def describe(self, task: dark_room.Params) -> str:
        names = ", ".join(NAMES[move] for move in np.asarray(cast(Params, task).moves))
        return f"{super().describe(task)}; the actions are {names}"

    def optimal_label(self, observation: jax.Array, task: dark_room.Params) -> jax.Array:
        return jnp.argmax(cast(Params, task).moves == super().optimal_label(observation, task)).astype(jnp.int32)
