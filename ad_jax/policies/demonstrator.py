"""Demonstrations that fill a context before the model acts: a policy some way from a random one to the optimal one.

The demonstrator takes the family's optimal action, or with probability `noise` a uniformly random one. Which noise
earns which share of the way (`normalized.share`) is found by simulation on the tasks themselves, before the model is
asked anything. The demonstrator is no `Policy`: it acts from the environment's state and the task, which a policy does
not see.

Source: Laskin et al. 2022 (arXiv 2210.14215), section 4 and figure 5, where demonstrators are half-trained policies.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax import normalized
from ad_jax.envs.base import TaskFamily, advance, num_tasks, reset
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.keys import a_key, named_key
from ad_jax.policies.random import by_chance
from ad_jax.types import PyTree

LEVELS, EPISODES = 41, 64  # noises tried, and episodes of each task at each of them


class Prompt(NamedTuple):
    """What fills a context: `episodes` episodes of the demonstrator with `noise`."""

    noise: float
    episodes: int


def demonstrate(family: TaskFamily, noise: float | jax.Array, key: jax.Array, state: PyTree, task: PyTree) -> jax.Array:
    """Return the demonstrator's action in `state`, `[]` int32 or of a Box `[*S]` float32. The key is consumed."""
    key_noise, key_action = jax.random.split(key)
    best = cast(jax.Array, family.optimal_action(state, task))
    action, chance = family.action_spec, jax.random.uniform(key_noise, (), jnp.float32)
    return jnp.where(chance < noise, by_chance(action, key_action), best).astype(action.compute_dtype)


def check(family: TaskFamily, sets: Mapping[str, PyTree]) -> None:
    """Raise ConfigError where nothing can be demonstrated.

    Args:
        family: has to know an optimal action, and what it earns.
        sets: the sets of tasks that will be evaluated; the mean optimal return of each has to be above the random
            policy's, where that is known without simulating it.
    """
    task = family.default_params
    state = jax.eval_shape(lambda task: reset(family, a_key(0), task), task)[1]
    optimal = family.optimal_return(jax.tree.map(lambda x: jnp.asarray(x)[None], task))
    if jax.eval_shape(family.optimal_action, state, task) is None or optimal is None:
        raise ConfigError(
            f"evaluate.prompt needs a family with optimal_action and optimal_return; {family.name} has not both. "
            "Leave evaluate.prompt at None"
        )
    for name, tasks in sets.items():
        random, optimal = family.random_return(tasks), family.optimal_return(tasks)
        if random is not None and optimal is not None:
            _check_apart(family, name, float(random.mean()), float(optimal.mean()))


def noise_for(family: TaskFamily, tasks: PyTree, share: float, seed: int) -> float:
    """Return the noise with which the demonstrator is at `share` of the way from random to optimal, over all `tasks`.

    What the random policy earns is simulated, as noise 1, where the family does not know it.

    Returns:
        In [0, 1]; 1 where even random actions earn more than `share`.

    Raises:
        AdJaxError: if a reward is not finite.
        ConfigError: if the optimal policy earns no more than a random one.
    """
    noises = np.linspace(0, 1, LEVELS, dtype=np.float32)
    by_task = _returns(family, tasks, noises, seed)
    if len(bad := np.argwhere(~np.isfinite(by_task))):
        raise AdJaxError(
            f"task {family.task_ids(tasks)[bad[0][1]]} of {family.name} gave a demonstrator a reward that is no finite "
            "number. Mend step_env"
        )
    returns = by_task.mean(1)
    optimal = float(cast(np.ndarray, family.optimal_return(tasks)).mean())
    known = family.random_return(tasks)
    random = float(returns[-1] if known is None else known.mean())
    _check_apart(family, "these tasks", random, optimal)
    shares = normalized.share(returns, random, optimal)  # falls as noise rises, but for chance
    falling = np.minimum.accumulate(shares)
    return 1.0 if share <= 0 else float(np.interp(share, falling[::-1], noises[::-1]))


def _check_apart(family: TaskFamily, where: str, random: float, optimal: float) -> None:
    if not normalized.comparable(random, optimal):
        raise ConfigError(
            f"evaluate.prompt is a share of the way from a random policy's return to the optimal one's; on {where} of "
            f"{family.name} those are {random:g} and {optimal:g}, so there is none. Leave evaluate.prompt at None"
        )


def _returns(family: TaskFamily, tasks: PyTree, levels: np.ndarray, seed: int) -> np.ndarray:
    """Mean return of an episode at each noise, `[levels, N]`. The same random numbers serve every level."""
    keys = jax.random.split(named_key(seed, "prompt"), (num_tasks(tasks), EPISODES))

    def episode(noise, task, key):
        _, state = reset(family, jax.random.fold_in(key, 0), task)

        def step(carry, t):
            state, ended = carry
            key_act, key_env = jax.random.split(jax.random.fold_in(key, t + 1))
            action = demonstrate(family, noise, key_act, state, task)
            _, state, outcome = advance(family, key_env, state, action, task)
            return (state, ended | outcome.done), jnp.where(ended, 0.0, outcome.reward)

        _, rewards = jax.lax.scan(step, (state, jnp.bool_(False)), jnp.arange(family.episode_length, dtype=jnp.int32))
        return rewards.sum()

    every = jax.vmap(jax.vmap(jax.vmap(episode, (None, None, 0)), (None, 0, 0)), (0, None, None))
    return np.asarray(functools.partial(jax.jit(every), levels)(tasks, keys)).mean(-1)
