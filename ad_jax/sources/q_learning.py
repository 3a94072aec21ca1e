"""Tabular Q-learning with annealed epsilon-greedy exploration (Watkins 1989), one table per learner.

For families with integer observations. One update is one `episode_length` of steps. A truncated episode still
bootstraps from the observation it was cut at; a terminated one does not. Ties are broken by noise far below any
difference that learning makes, so that an empty table explores instead of repeating action 0.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, spec_of
from ad_jax.sources.base import Source
from ad_jax.types import Transition

TIE_NOISE = 1e-5  # ties are exact zeros of the initial table; values that differ by less count as equal


@struct.dataclass
class Config:
    """Hyper-parameters; all are leaves."""

    learning_rate: float = 0.5
    discount: float = 0.9  # per step
    epsilon_start: float = 1.0
    epsilon_end: float = 0.0
    exploration_episodes: float = 280.0  # epsilon falls linearly over this many; 0: epsilon_end from the second on


@struct.dataclass
class State:
    """A learner between two updates."""

    table: jax.Array  # [cells, A] float32
    env_state: struct.PyTreeNode
    observation: jax.Array
    updates: jax.Array  # [] int32


def make(config: Config, family: TaskFamily) -> Source:
    """Q-learning on `family`.

    Raises:
        TypeError: if observations are not integers.
    """
    spec = spec_of(family)
    if spec.values is None:
        raise TypeError(f"q_learning needs integer observations; {family.name} has real ones. Try actor_critic.")
    strides = [math.prod(spec.values[i + 1 :]) for i in range(len(spec.values))]
    cells, steps = math.prod(spec.values), family.episode_length

    def cell_of(observation):
        return jnp.sum(observation.reshape(-1).astype(jnp.int32) * jnp.array(strides, jnp.int32))

    def init(key, task):
        observation, env_state = family.reset_env(key, task)
        table = jnp.zeros((cells, spec.num_actions), jnp.float32)
        return State(table, env_state, observation, jnp.int32(0))

    def update(key, state, task):
        fraction = jnp.minimum(state.updates.astype(jnp.float32) / jnp.maximum(config.exploration_episodes, 1e-9), 1.0)
        epsilon = config.epsilon_start + fraction * (config.epsilon_end - config.epsilon_start)

        # All random numbers of the update are drawn at once: per-step key splitting would cost more than the learning.
        key_coin, key_noise, key_env = jax.random.split(key, 3)
        noise = jax.random.uniform(key_noise, (steps, spec.num_actions))
        explore = jax.random.uniform(key_coin, (steps,)) < epsilon
        env_keys = jax.random.split(key_env, steps)

        def step(carry, random):
            table, env_state, observation = carry
            noise, explore, key_env = random
            cell = cell_of(observation)
            # Exploring drops the values and keeps the noise, whose argmax is a uniform action.
            action = jnp.argmax(jnp.where(explore, 0.0, table[cell]) + TIE_NOISE * noise)
            next_observation, env_state, outcome = advance(family, key_env, env_state, action, task)
            ahead = jnp.max(table[cell_of(outcome.next_observation)])
            target = outcome.reward + config.discount * jnp.where(outcome.terminated, 0.0, ahead)
            table = table.at[cell, action].add(config.learning_rate * (target - table[cell, action]))
            done = (outcome.terminated, outcome.truncated)
            return (table, env_state, next_observation), Transition(observation, action, outcome.reward, *done)

        start = (state.table, state.env_state, state.observation)
        (table, env_state, observation), stream = jax.lax.scan(step, start, (noise, explore, env_keys))
        one_actor = jax.tree.map(lambda x: x[:, None], stream)
        return State(table, env_state, observation, state.updates + 1), one_actor

    return Source(init, update, steps_per_update=steps, actors=1)
