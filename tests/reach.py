"""A world of real-valued actions: a point in a square is pushed, by a step in a Box, to a goal that is not seen."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily, advance, reset
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.types import Transition

LOW: Any = np.array([-0.5, -0.25], np.float32)
HIGH: Any = np.array([0.5, 0.75], np.float32)


@struct.dataclass
class State(environment.EnvState):
    position: Any  # [2]


@struct.dataclass
class Params(environment.EnvParams):
    goal: Any = None  # [2]


@dataclasses.dataclass(frozen=True)
class Reach(TaskFamily[State, Params]):
    """Pays 1 less the distance to the goal, at every step."""

    steps: int = 4

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.array([0.5, 0.5], jnp.float32))

    def action_space(self, params=None):
        return spaces.Box(LOW, HIGH, (2,), jnp.float32)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (2,), jnp.float32)

    def sample_tasks(self, key, n):
        return Params(jnp.full(n, self.steps, jnp.int32), jax.random.uniform(key, (n, 2), jnp.float32, -0.9, 0.9))  # pyright: ignore[reportArgumentType]

    def reset_env(self, key, params):
        state = State(jnp.int32(0), jnp.zeros(2, jnp.float32))
        return state.position, state

    def step_env(self, key, state, action, params):
        state = State(state.time + 1, jnp.clip(state.position + action, -1, 1))
        reward = 1 - jnp.abs(state.position - params.goal).sum()
        return state.position, state, reward, jnp.bool_(False), {}

    def optimal_action(self, state, task):
        return jnp.clip(task.goal - state.position, LOW, HIGH)

    def optimal_return(self, tasks):
        goals = np.asarray(tasks.goal, np.float64)
        position, total = np.zeros_like(goals), np.zeros(len(goals))
        for _ in range(self.steps):
            position = position + np.clip(goals - position, LOW, HIGH)
            total += 1 - np.abs(position - goals).sum(1)
        return total


@struct.dataclass
class NearlyOptimal(SourceConfig):
    """The optimal action, under noise that falls over so many updates. An update is an episode of one actor."""

    updates: float = 10.0

    def make(self, family: Any) -> Source:
        """Make a source that need not learn."""

        def init(key, task):
            return jnp.int32(0), *reset(family, key, task)

        def update(key, state, task):
            age, *start = state
            noise = jnp.maximum(1 - age.astype(jnp.float32) / self.updates, 0.0)

            def step(carry, key):
                observation, env_state = carry
                key_noise, key = jax.random.split(key)
                best = family.optimal_action(env_state, task)
                action = jnp.clip(best + noise * jax.random.normal(key_noise, (2,), jnp.float32), LOW, HIGH)
                after, env_state, outcome = advance(family, key, env_state, action, task)
                ends = outcome.terminated, outcome.truncated
                return (after, env_state), Transition(observation, action, outcome.reward, *ends)

            after, stream = jax.lax.scan(step, tuple(start), jax.random.split(key, family.steps))
            return (age + 1, *after), jax.tree.map(lambda x: x[:, None], stream)

        return Source(init, update, steps_per_update=family.steps, actors=1)
