"""UCB1 (Auer, Cesa-Bianchi and Fischer 2002, figure 1), for families whose episode is one step.

First every arm once, in random order; then the arm with the largest mean + c sqrt(ln t / n), where n counts its pulls
and t all of them. With c = sqrt(2) and rewards in [0, 1] the expected regret after t pulls is at most
8 sum(ln t / gap) + (1 + pi^2 / 3) sum(gap) (theorem 1). Gaussian rewards fall outside the theorem.

The source of the bandit histories of Laskin et al. 2022 (arXiv 2210.14215), who do not state its constants. Two
deliberate details: ties are broken at random, not by index, so that the histories do not carry the order of the arms;
and observations are ignored.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, reset
from ad_jax.errors import ConfigError
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.types import discrete

TIE = 1e-5  # bounds that differ by less count as equal: far below what a pull changes, far above rounding


@struct.dataclass
class UCB(SourceConfig):
    """Options of UCB1; floats are leaves."""

    exploration: float = math.sqrt(2)  # c
    pulls_per_update: int = struct.field(pytree_node=False, default=10)

    def make(self, family: TaskFamily) -> Source:
        """Return UCB1 on `family`.

        Raises:
            TypeError: if an episode has more than one step.
            ConfigError: if an update would have no pulls, or if actions are a Box.
        """
        discrete(family.action_spec, "source=ucb")
        if family.episode_length != 1:
            raise TypeError(
                f"ucb needs episodes of 1 step; {family.name} has {family.episode_length}. Try source=q_learning"
            )
        if self.pulls_per_update < 1:
            raise ConfigError(f"source.pulls_per_update must be at least 1; got {self.pulls_per_update}")
        arms, steps = family.num_actions, self.pulls_per_update

        def init(key, task):
            observation, env_state = reset(family, key, task)
            return State(jnp.zeros(arms, jnp.float32), jnp.zeros(arms, jnp.float32), env_state, observation)

        def update(key, state, task):
            key_noise, key_env = jax.random.split(key)
            noise = jax.random.uniform(key_noise, (steps, arms), jnp.float32)

            def step(state, random):
                noise, key_env = random
                bound = upper_bound(state.pulls, state.total, self.exploration)
                action = jnp.argmax(jnp.where(bound >= bound.max() - TIE, noise, -1.0))
                observation, env_state, outcome = advance(family, key_env, state.env_state, action, task)
                pulls, total = state.pulls.at[action].add(1.0), state.total.at[action].add(outcome.reward)
                transition = outcome.transition(state.observation, action.astype(jnp.int32))
                return State(pulls, total, env_state, observation), transition

            state, stream = jax.lax.scan(step, state, (noise, jax.random.split(key_env, steps)))
            return state, jax.tree.map(lambda x: x[:, None], stream)

        return Source(init, update, steps_per_update=steps, actors=1)


@struct.dataclass
class State:
    """A learner between two updates."""

    pulls: jax.Array  # [A] float32, how often each arm was pulled
    total: jax.Array  # [A] float32, sum of each arm's rewards
    env_state: struct.PyTreeNode
    observation: jax.Array


def upper_bound(pulls: jax.Array, total: jax.Array, exploration: float | jax.Array) -> jax.Array:
    """Return the index of every arm, `[A]` float32; infinite for an arm never pulled."""
    often = jnp.maximum(pulls, 1.0)  # keeps the unused branch of the `where` finite
    width = exploration * jnp.sqrt(jnp.log(jnp.maximum(pulls.sum(), 1.0)) / often)
    return jnp.where(pulls == 0, jnp.inf, total / often + width)
