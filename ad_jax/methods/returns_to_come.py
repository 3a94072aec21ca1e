"""What is still to be earned in an episode, of every step of stored histories, and a return that can be asked for."""

import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError

ROUNDING = 1e-4  # of an optimum: a target above it by no more is it


def returns_after(reward: np.ndarray, done: np.ndarray, discount: float) -> np.ndarray:
    """Return what the steps after each one in its episode earn, discounted, `[H, T]` float32 of `[H, T]`.

    Of an episode that the history cuts off, what is known counts.
    """
    found, later = np.zeros(reward.shape, np.float32), np.zeros(len(reward), np.float32)
    for t in reversed(range(reward.shape[1])):
        found[:, t] = np.where(done[:, t], np.float32(0), later)
        later = reward[:, t].astype(np.float32) + np.float32(discount) * found[:, t]
    return found


def returns_to_go(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return what each step and those after it in its episode earn, `[H, T]` float32 of `[H, T]`.

    Of an episode that the history cuts off, what is known counts.
    """
    return reward.astype(np.float32) + returns_after(reward, done, 1.0)


def check_target(target: float, best: np.ndarray, family: TaskFamily) -> None:
    """Raise ConfigError for a return that is above what the best policies earn on the training tasks, `best [N]`."""
    most = float(np.max(best))
    if target > most + ROUNDING * max(1.0, abs(most)):
        raise ConfigError(
            f"method.acting.target={target:g} is above what any policy can earn in {family.name}: {most:.4g} in the "
            "best of the training tasks. Ask for that or less"
        )
