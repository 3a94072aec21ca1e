"""Histories without reinforcement learning: a demonstrator whose noise falls step by step (AD^eps).

With probability `noise` the action is uniform over all of them, else it is the demonstrator's, which is the family's
`optimal_action`. Noise falls linearly from `noise_start` to `noise_end` over `noise_episodes` and then stays, so a
history improves as a learner's does. One update is one `episode_length` of steps.

Source: Zisman et al. 2023 (arXiv 2312.12275), who let the noise fall from 1 over the first 90 % of a history, and make
a demonstrator sub-optimal by ending above 0: their `max_perf` p is `noise_end=1 - p`. Deliberate differences. Where
episodes end early, noise falls by the steps taken, not by those the episode could have had. With `persistence`, a
decision, to follow the demonstrator or to take some random action, lasts: noise then goes somewhere instead of back
and forth (temporally extended exploration: Dabney et al. 2020, arXiv 2006.01782). And `optimality` is another way to
be sub-optimal, ours: such a demonstrator errs in the same situations each time, as a half-trained policy does. Each
learner's has its own errors: in a share 1 - `optimality` of all situations (what the family's `source_observation`
tells apart) it knows nothing, and has one action for good, drawn uniformly.
"""

from typing import cast

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, reset
from ad_jax.errors import ConfigError
from ad_jax.keys import a_key, halves, mixed
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.types import discrete


@struct.dataclass
class NoisyOracle(SourceConfig):
    """Options of the noisy oracle; floats are leaves, but for `persistence`."""

    noise_start: float = 1.0
    noise_end: float = 0.0
    noise_episodes: float = 360.0  # of full length, over which noise falls; 0: noise_end from the second step on
    persistence: float = struct.field(pytree_node=False, default=1.0)  # mean steps that a decision lasts
    optimality: float = 1.0  # share of the situations in which the demonstrator knows the optimal action

    def make(self, family: TaskFamily) -> Source:
        """Return a noisy oracle on `family`.

        Raises:
            TypeError: if the family does not know its optimal actions.
            ConfigError: for a persistence below 1, or if actions are a Box.
        """
        discrete(family.action_spec, "source=noisy_oracle")
        if self.persistence < 1:
            raise ConfigError(f"source.persistence is a mean number of steps, at least 1; got {self.persistence}")
        steps, actions = family.episode_length, family.num_actions
        example = jax.eval_shape(lambda task: reset(family, a_key(0), task), family.default_params)[1]
        if jax.eval_shape(family.optimal_action, example, family.default_params) is None:
            raise TypeError(f"noisy_oracle needs an optimal_action; {family.name} has none. Try source=q_learning")

        def init(key, task):
            key_errors, key_env = jax.random.split(key)
            observation, env_state = reset(family, key_env, task)
            return State(jax.random.bits(key_errors, (), jnp.uint32), env_state, observation, jnp.int32(0))

        def update(key, state, task):
            place = jnp.arange(steps, dtype=jnp.float32)
            episodes = state.updates.astype(jnp.float32) + place / steps  # of each step, since birth
            fraction = jnp.minimum(episodes / jnp.maximum(self.noise_episodes, 1e-9), 1.0)
            noise = self.noise_start + fraction * (self.noise_end - self.noise_start)
            key_action, key = jax.random.split(key)
            is_noise, random = halves(jax.random.bits(key_action, (steps,), jnp.uint32))
            if self.persistence > 1:
                renewed = jax.random.uniform(jax.random.fold_in(key, 0), (steps,), jnp.float32) * self.persistence < 1
                # The step that decides.
                decided = jax.lax.cummax(jnp.where(renewed, jnp.arange(steps, dtype=jnp.int32), 0))
                is_noise, random = is_noise[decided], random[decided]
            by_chance = (random * actions).astype(jnp.int32)

            def step(carry, x):
                env_state, observation = carry
                is_noise, by_chance, key_env = x
                situation = number_of(family.source_observation(env_state, observation), state.errors)
                knows, habit = halves(situation)
                best = cast(jax.Array, family.optimal_action(env_state, task))  # not None: asked above
                own = jnp.where(knows < self.optimality, best, (habit * actions).astype(jnp.int32))
                action = jnp.where(is_noise, by_chance, own)
                next_observation, env_state, outcome = advance(family, key_env, env_state, action, task)
                return (env_state, next_observation), outcome.transition(observation, action)

            start = (state.env_state, state.observation)
            random = (is_noise < noise, by_chance, jax.random.split(jax.random.fold_in(key, 1), steps))
            (env_state, observation), stream = jax.lax.scan(step, start, random)
            one_actor = jax.tree.map(lambda x: x[:, None], stream)
            return State(state.errors, env_state, observation, state.updates + 1), one_actor

        return Source(init, update, steps_per_update=steps, actors=1)


@struct.dataclass
class State:
    """A demonstrator between two updates."""

    errors: jax.Array  # [] uint32, decides where this demonstrator errs, and how
    env_state: struct.PyTreeNode
    observation: jax.Array
    updates: jax.Array  # [] int32


def number_of(observation: jax.Array, seed: jax.Array) -> jax.Array:
    """32 bits that only `observation`, of any shape and type, and `seed` decide; `[]` uint32."""
    real = jnp.issubdtype(observation.dtype, jnp.floating)
    words = observation.astype(jnp.float32).view(jnp.uint32) if real else observation.astype(jnp.uint32)
    place = mixed(seed + jnp.arange(1, words.size + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9))
    return mixed(jnp.sum(mixed(words.reshape(-1) ^ place), dtype=jnp.uint32) ^ seed)
