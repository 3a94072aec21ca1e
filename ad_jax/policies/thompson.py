"""Thompson sampling for Bernoulli bandits: an arm is pulled as often as it is likely to be the best one.

The prior of each arm is Beta(1, 1), independent of the others; after w ones and l zeros it is Beta(1 + w, 1 + l). An
arm is drawn with probability P(arm is best | counts), to the error of the quadrature; the greedy action is the arm that
is most likely the best.

Source: Thompson 1933; Chapelle and Li 2011. Usually one draws a mean for each arm and takes the largest; here the
probability of that is computed, so that there is a likeliest arm and a temperature:

    P(a is best) = integral of f_a(x) prod_{b != a} F_b(x) dx

with densities f and distributions F, over the midpoints of `points` equal intervals of the angle whose squared sine is
x: in it a posterior of n pulls is about 1 / (2 sqrt(n)) wide wherever it lies. Two arms in one interval are each the
better one half of the time. Not the Bayes-optimal policy of a bandit, which is known for discounted returns only
(Gittins) and plans ahead; and of the adversarial bandit's parity of good arms it knows nothing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.policies.base import Mode, Policy, PolicyConfig, choose

TINY = 1e-30  # probabilities below count as this, so that their logarithms are finite


@dataclasses.dataclass(frozen=True)
class Thompson(PolicyConfig):
    """Options of Thompson sampling: how finely the posterior is looked at."""

    points: int = 512  # intervals

    def make(self, family: TaskFamily, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return Thompson sampling over `family`'s arms; observations are ignored.

        Raises:
            ConfigError: if `family` is no bandit of ones and zeros, or for fewer than 2 points.
        """
        if not (isinstance(family, Bandit) and type(family).step_env is Bandit.step_env):
            raise ConfigError(f"Thompson sampling is of bandits; got {family!r}. Use env=bandit, or another model")
        if family.reward != "bernoulli":
            raise ConfigError(
                f"Thompson sampling counts ones and zeros; got env.reward={family.reward!r}. Use env.reward=bernoulli"
            )
        if self.points < 2:
            raise ConfigError(f"model.points must be at least 2; got {self.points}")
        arms = family.num_actions

        def init(batch):
            return Counts(*(jnp.zeros((batch, arms), jnp.float32) for _ in Counts._fields))

        def act(params, counts, steps, keys):
            pulled = jax.nn.one_hot(steps.prev_action, arms)  # the first step's "none" is no arm: all zero
            reward = steps.prev_reward[:, None]
            counts = Counts(counts.ones + pulled * reward, counts.zeros + pulled * (1 - reward))
            likely = log_best(counts.ones, counts.zeros, self.points)
            return choose(likely, keys, mode, temperature), counts

        return Policy(init, act)


class Counts(NamedTuple):
    """What B lifetimes have seen of each arm, `[B, A]` float32 each."""

    ones: jax.Array
    zeros: jax.Array


def log_best(ones: jax.Array, zeros: jax.Array, points: int) -> jax.Array:
    """Log-probability of each arm to have the largest mean, `[B, A]`, after that many ones and zeros."""
    angle = (jnp.arange(points, dtype=jnp.float32) + 0.5) / points * (jnp.pi / 2)
    one, zero = jnp.log(jnp.sin(angle))[None, None], jnp.log(jnp.cos(angle))[None, None]
    weight = (2 * ones + 1)[:, :, None] * one + (2 * zeros + 1)[:, :, None] * zero
    mass = jax.nn.softmax(weight, axis=-1)  # [B, A, points]
    below = jnp.log(jnp.maximum(jnp.cumsum(mass, axis=-1) - mass / 2, TINY))
    others = below.sum(axis=1, keepdims=True) - below
    best = (mass * jnp.exp(others)).sum(axis=-1)
    return jnp.log(jnp.maximum(best / best.sum(axis=-1, keepdims=True), TINY))
