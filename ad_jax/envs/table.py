"""Worlds that are tables: a Markov decision process over labeled states, whole in the task, and its exact solution.

The agent sees the label of its state and names an action; what they mean, the task alone says. So a model that was
trained on many such worlds has nothing to rely on but its context.

Rewards come with an outcome, (state, action, what came of it), as in any finite process. `optimal_return` and
`random_return` are computed backwards over the steps of an episode, all tasks at once, on the device.
"""

import dataclasses
import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily
from ad_jax.types import Array, PyTree


@struct.dataclass
class State(environment.EnvState):
    """Where the agent is."""

    at: Array  # [] int32, a label


@struct.dataclass
class Params(environment.EnvParams):
    """The task: S labels of states, A of actions, B outcomes of each."""

    successor: Array = None  # [S, A, B] int32, a label
    chance: Array = None  # [S, A, B] float32, 1 in sum over B
    reward: Array = None  # [S, A, B] float32
    ends: Array = None  # [S] bool: to reach it ends the episode
    start: Array = None  # [S] float32, chances of where episodes begin
    slip: Array = None  # [] float32, how often another action is taken, any of the A


@dataclasses.dataclass(frozen=True)
class TableWorld(TaskFamily[State, Params]):
    """A family of tables of one size: `states` and `actions` labels, episodes of `steps`."""

    states: int = 16
    actions: int = 5
    steps: int = 20

    @property
    def episode_length(self) -> int:
        return self.steps

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(self.actions)

    def observation_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(self.states)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        at = jax.random.categorical(key, jnp.log(params.start)).astype(jnp.int32)
        return at, State(jnp.int32(0), at)

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        key_slip, key_action, key_outcome = jax.random.split(key, 3)
        slips = jax.random.uniform(key_slip, dtype=jnp.float32) < params.slip
        action = jnp.where(slips, jax.random.randint(key_action, (), 0, self.actions, jnp.int32), action)
        outcome = jax.random.categorical(key_outcome, jnp.log(params.chance[state.at, action])).astype(jnp.int32)
        at = params.successor[state.at, action, outcome]
        reward = params.reward[state.at, action, outcome]
        return at, State(state.time + 1, at), reward, params.ends[at], {}

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return state.at

    def optimal_return(self, tasks: Params) -> np.ndarray:
        return np.asarray(_returns(tasks, self.steps, True), np.float64)

    def random_return(self, tasks: Params) -> np.ndarray:
        return np.asarray(_returns(tasks, self.steps, False), np.float64)

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        """Return the action with the most to come in the steps that are left."""
        left = self.steps - state.time  # backwards: after n rounds it is known what n steps are worth

        def longer(_: jax.Array, value: jax.Array) -> jax.Array:
            return worth(task, value).max(-1)

        value = jax.lax.fori_loop(0, left - 1, longer, jnp.zeros(self.states, jnp.float32))
        return jnp.argmax(worth(task, value)[state.at]).astype(jnp.int32)

    def trace(self, state: State, action: jax.Array) -> jax.Array:
        return state.at[None]


def worth(task: Params, value: jax.Array) -> jax.Array:
    """Return what each action is worth in each state, `[S, A]`, where states are worth `value` `[S]` one step later."""
    later = jnp.where(task.ends, jnp.float32(0), value)[task.successor]
    taken = (task.chance * (task.reward + later)).sum(-1)
    return (1 - task.slip) * taken + task.slip * taken.mean(-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _returns(tasks: Params, steps: int, best: bool) -> jax.Array:
    """Return what is earned in an episode of each task, `[N]`, by the best policy or by the uniformly random one."""

    def of(task: Params) -> jax.Array:
        def longer(value: jax.Array, _: None) -> tuple[jax.Array, None]:
            q = worth(task, value)
            return q.max(-1) if best else q.mean(-1), None

        value, _ = jax.lax.scan(longer, jnp.zeros(task.ends.shape, jnp.float32), length=steps)
        return (task.start * value).sum()

    return jax.vmap(of)(tasks)


def relabeled(key: jax.Array, task: Params) -> Params:
    """Return the same world under other labels of its states and actions, drawn at random. The key is consumed."""
    states, actions, _ = task.successor.shape
    key_state, key_action = jax.random.split(key)
    new = jax.random.permutation(key_state, jnp.arange(states, dtype=jnp.int32))  # the new label of each old one
    old, order = (
        jnp.argsort(new).astype(jnp.int32),
        jax.random.permutation(key_action, jnp.arange(actions, dtype=jnp.int32)),
    )

    def moved(table: jax.Array) -> jax.Array:
        return table[old][:, order]

    return task.replace(  # pyright: ignore[reportAttributeAccessIssue]  # flax gives it to every struct
        successor=new[moved(task.successor)],
        chance=moved(task.chance),
        reward=moved(task.reward),
        ends=task.ends[old],
        start=task.start[old],
    )


def steps_in(steps: int) -> int:
    """Return `max_steps_in_episode` of a task, as an array that can be batched."""
    return cast(int, jnp.int32(steps))
