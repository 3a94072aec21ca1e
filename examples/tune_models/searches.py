"""Two searches that know of no other task, as sources of learning histories; `vmap` runs thousands of each."""

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax import Source, TaskFamily
from ad_jax.envs.base import advance, reset
from ad_jax.sources.base import SourceConfig
from examples.tune_models.world import SIDE


def optimizer(family: TaskFamily, start, choose, learn) -> Source:
    """Return a source of `choose(key, belief) -> action` and `learn(belief, action, reward) -> belief`."""

    def init(key, task):
        return (start, *reset(family, key, task))

    def update(key, state, task):
        belief, observation, env_state = state
        key_choice, key_env = jax.random.split(key)
        action = choose(key_choice, belief)
        after, env_state, outcome = advance(family, key_env, env_state, action, task)
        transition = jax.tree.map(lambda x: x[None, None], outcome.transition(observation, action))
        return (learn(belief, action, outcome.reward), after, env_state), transition

    return Source(init, update, steps_per_update=1, actors=1)


@struct.dataclass
class GPUCB(SourceConfig):
    """Bayesian optimization: a Gaussian process on the grid; the setting that is best if all goes well is next."""

    exploration: float = 1.0  # standard deviations that are hoped for
    length: float = 3.0  # cells over which scores are alike
    noise: float = 0.05

    def make(self, family):
        cells = jnp.arange(SIDE**2, dtype=jnp.int32)
        place = jnp.stack([cells // SIDE, cells % SIDE], 1).astype(jnp.float32)
        apart = jnp.sum((place[:, None] - place[None]) ** 2, -1)
        # Of unknown height, besides: the mean of the scores is a guess of no weight.
        covariance = 1.0 + 0.09 * jnp.exp(-apart / (2 * self.length**2))

        def choose(key, belief):
            mean, covariance = belief
            bound = mean + self.exploration * jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), 0.0))
            tie = jax.random.uniform(key, bound.shape, jnp.float32)
            return jnp.argmax(jnp.where(bound >= bound.max() - 1e-4, tie, -1.0)).astype(jnp.int32)

        def learn(belief, action, reward):
            mean, covariance = belief
            gain = covariance[action] / (covariance[action, action] + self.noise**2)
            mean = mean + gain * (reward - mean[action])
            return mean, covariance - gain[:, None] * covariance[action][None]

        return optimizer(family, (jnp.zeros(SIDE**2, jnp.float32), covariance), choose, learn)


@struct.dataclass
class LocalSearch(SourceConfig):
    """Try a neighbor of the best setting so far, or now and then any setting."""

    anywhere: float = 0.1  # probability of the latter
    reach: int = struct.field(pytree_node=False, default=2)  # cells, along each side of the grid

    def make(self, family):
        def choose(key, belief):
            best, score = belief
            key_jump, key_any, key_near = jax.random.split(key, 3)
            moved = jnp.stack([best // SIDE, best % SIDE])
            moved = moved + jax.random.randint(key_near, (2,), -self.reach, self.reach + 1, jnp.int32)
            row, column = jnp.clip(moved, 0, SIDE - 1)
            jump = (jax.random.uniform(key_jump, (), jnp.float32) < self.anywhere) | jnp.isneginf(score)
            return jnp.where(jump, jax.random.randint(key_any, (), 0, SIDE**2, jnp.int32), row * SIDE + column)

        def learn(belief, action, reward):
            return jax.tree.map(lambda new, old: jnp.where(reward > belief[1], new, old), (action, reward), belief)

        return optimizer(family, (jnp.int32(0), jnp.float32(-jnp.inf)), choose, learn)
