"""Means over training runs and tasks, and how sure they are: a 95 % percentile bootstrap. Imports no JAX."""

import numpy as np


def bootstrap(values: np.ndarray, n: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over runs and tasks with its 95 % interval: runs are resampled, then tasks inside each.

    Args:
        values: `[R, N, E]`, rollouts already averaged. One run: only tasks are resampled; one task: only runs.
        n: resamples.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        mean, low, high: `[E]` each; of one task in one run nothing is known of what varies, and low and high are NaN.
    """
    if values.shape[0] * values.shape[1] == 1:
        unknown = np.full(values.shape[-1], np.nan)
        return values.mean((0, 1)), unknown, unknown
    low, high = np.percentile(resampled(values, n, seed), [2.5, 97.5], axis=0)
    return values.mean((0, 1)), low, high


def resampled(values: np.ndarray, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Means `[n, E]` of `[R, N, E]` over runs and tasks: runs drawn anew, then tasks inside each.

    The draws depend on R, N, `n` and `seed` alone: two arrays of as many runs and tasks are resampled alike.
    """
    runs, tasks, episodes = values.shape
    rng = np.random.default_rng(seed)
    run = rng.integers(runs, size=(n, runs, 1))
    cell = run * tasks + rng.integers(tasks, size=(n, runs, tasks))  # index into [R * N]
    cell = cell.reshape(n, -1) + np.arange(n)[:, None] * (runs * tasks)
    # How often each task was drawn, then one product: memory grows with n * E, not with n * R * N * E.
    drawn = np.bincount(cell.ravel(), minlength=n * runs * tasks).reshape(n, -1)
    return drawn.astype(float) @ values.reshape(-1, episodes) / (runs * tasks)


def final_of(values: np.ndarray) -> np.ndarray:
    """[..., E] -> [...], the mean of the last 10 % of episodes."""
    return values[..., -max(1, values.shape[-1] // 10) :].mean(-1)
