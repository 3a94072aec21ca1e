"""K-armed bandits. The task is the mean reward of every arm; a pull is an episode of one step.

So "in-context episode n" is the n-th pull, and the return of an episode is the reward of its pull. The observation is
always 0. Arms count from 0; "odd" and "even" are parities of that index.

    tasks="adversarial"  the good arm is odd with probability `odds` in training; the "even" set turns that round
    tasks="uniform"      the good arm is any arm
    reward="bernoulli"   1 with probability equal to the mean, else 0
    reward="gaussian"    the mean plus normal noise of standard deviation `noise`

Source: the Adversarial Bandit of Laskin et al. 2022 (arXiv 2210.14215), figure 3: 10 arms, 100 pulls, good arm odd in
95 % of the training tasks and even in 95 % of the shifted ones. The paper does not state how the means are
distributed, nor how rewards are. Here means are uniform on [0, 1), independent; in an adversarial task the largest then
changes places with the mean of the arm drawn to be good, so all kinds of task are equally hard.
"""

import dataclasses
import functools
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily, TaskSplit, check_split
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.keys import a_key
from ad_jax.types import Array, PyTree


@struct.dataclass
class State(environment.EnvState):
    """Nothing but the time: a pull changes nothing."""


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    means: Array = None  # [K] float32 in [0, 1)


@dataclasses.dataclass(frozen=True)
class Bandit(TaskFamily[State, Params]):
    """Options of the bandit: `arms` is K.

    Raises:
        ConfigError: for fewer than 2 arms, or for `odds` or `noise` outside their range.
    """

    arms: int = 10
    reward: Literal["bernoulli", "gaussian"] = "bernoulli"
    tasks: Literal["adversarial", "uniform"] = "adversarial"
    odds: float = 0.95  # probability that the good arm of an adversarial task is on its usual side
    noise: float = 0.3  # standard deviation of a Gaussian reward

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arms < 2:
            raise ConfigError(f"a bandit needs at least 2 arms; got env.arms={self.arms}")
        if not 0 <= self.odds <= 1:
            raise ConfigError(f"env.odds is a probability, in [0, 1]; got {self.odds}")
        if self.noise < 0:
            raise ConfigError(f"env.noise is a standard deviation, at least 0; got {self.noise}")

    @property
    def episode_length(self) -> int:
        return 1

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.reward == "bernoulli" else np.float32)

    @property
    def default_params(self) -> Params:
        return Params(1, jnp.zeros(self.arms, jnp.float32))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(self.arms)

    def observation_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(1)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        state = State(jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        mean = params.means[action]
        if self.reward == "bernoulli":
            reward = jax.random.bernoulli(key, mean).astype(jnp.float32)
        else:
            reward = mean + self.noise * jax.random.normal(key, (), jnp.float32)
        state = State(state.time + 1)
        return self.observe(key, state, action, params), state, reward, jnp.bool_(False), {}

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return jnp.int32(0)

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Draw n tasks of the training distribution."""
        return self._draw(key, n, "odd" if self.tasks == "adversarial" else "uniform")

    def split(self, seed: int, train: int, held_out: int) -> TaskSplit:
        """Fresh draws for every set, fixed by the seed.

        Adversarial: "odd" (the training distribution), "even" (shifted) and "uniform", `held_out` tasks each.
        Uniform: "uniform" alone.

        Raises:
            ValueError: if one side would be empty, or if two tasks came out the same.
        """
        if train < 1 or held_out < 1:
            raise ValueError(f"a split needs at least 1 train and 1 held-out task; got {train} and {held_out}")
        names = ("odd", "even", "uniform") if self.tasks == "adversarial" else ("uniform",)
        key_train, *keys = jax.random.split(jax.random.fold_in(a_key(seed), 0x5B117), 1 + len(names))
        sets = [self.sample_tasks(key_train, train), *(self._draw(k, held_out, name) for k, name in zip(keys, names))]
        split = TaskSplit(sets[0], dict(zip(names, sets[1:])), "by seed")
        check_split(self, split)
        return split

    def describe(self, task: Params) -> str:
        means = np.asarray(task.means)
        return f"arm {means.argmax()} of {self.arms} is best, with mean {means.max():.2f}"

    def optimal_return(self, tasks: Params) -> np.ndarray:
        return np.asarray(tasks.means, np.float64).max(axis=1)

    def random_return(self, tasks: Params) -> np.ndarray:
        return np.asarray(tasks.means, np.float64).mean(axis=1)

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        return jnp.argmax(task.means).astype(jnp.int32)

    def optimal_label(self, observation: jax.Array, task: Params) -> jax.Array:
        return jnp.argmax(task.means).astype(jnp.int32)

    def picture(self, task: Params) -> JsonObject:
        return {"kind": "arms", "means": np.asarray(task.means).tolist()}

    @functools.partial(jax.jit, static_argnums=(0, 2, 3))  # one program in the place of twenty
    def _draw(self, key: jax.Array, n: int, good: str) -> Params:
        """Draw n tasks whose good arm is usually `"odd"`, usually `"even"`, or `"uniform"`. The key is consumed."""
        key_means, key_side, key_arm = jax.random.split(key, 3)
        means = jax.random.uniform(key_means, (n, self.arms), jnp.float32)
        if good != "uniform":
            usual = jax.random.bernoulli(key_side, jnp.float32(self.odds), (n,))
            odd = usual if good == "odd" else ~usual
            choices = jnp.where(odd, self.arms // 2, (self.arms + 1) // 2)  # arms of that parity
            arm = 2 * jax.random.randint(key_arm, (n,), 0, choices, jnp.int32) + odd.astype(jnp.int32)
            rows, best = jnp.arange(n, dtype=jnp.int32), means.argmax(axis=1)
            means = means.at[rows, best].set(means[rows, arm]).at[rows, arm].set(means.max(axis=1))
        return Params(cast(int, jnp.ones(n, jnp.int32)), means)
