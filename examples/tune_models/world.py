"""A table of true scores as a task: pick one of 144 settings of a model, be paid its score.

`ad-jax check examples.tune_models.world:Tuning` holds it to the contract of a task family.
"""

import dataclasses
import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax import TaskFamily, TaskSplit
from ad_jax.types import Array

SIDE = 12  # of the grid of settings
TABLES = Path(__file__).with_name("tables.npz")


@functools.cache
def tables() -> dict[str, np.ndarray]:
    """Return the tables of each data set, `[cuts, 144]` float32."""
    return {name: table.astype(np.float32) for name, table in np.load(TABLES).items()}


@struct.dataclass
class State(environment.EnvState):
    """Nothing but the time."""


@struct.dataclass
class Params(environment.EnvParams):
    """A task."""

    scores: Array = None  # [144] float32


@dataclasses.dataclass(frozen=True)
class Tuning(TaskFamily[State, Params]):
    """Pick a setting, be paid its score. An episode is one trial; the observation says nothing."""

    unseen: tuple[str, ...] = ("breast_cancer", "iris")  # data sets that are held out, each a set of its own

    @property
    def episode_length(self):
        return 1

    @property
    def default_params(self):
        return Params(1, jnp.zeros(SIDE**2, jnp.float32))

    def action_space(self, params=None):
        return spaces.Discrete(SIDE**2)

    def observation_space(self, params):
        return spaces.Discrete(1)

    def reset_env(self, key, params):
        return jnp.int32(0), State(jnp.int32(0))

    def step_env(self, key, state, action, params):
        return jnp.int32(0), State(state.time + 1), params.scores[action], jnp.bool_(False), {}

    def all_tasks(self):
        return tasks_of(np.concatenate(list(tables().values())))

    def split(self, seed, train, held_out):
        """Divide by data set: the tasks that are held out are cuts of data of which no cut is trained on."""
        rng = np.random.default_rng(seed)
        if unknown := sorted(set(self.unseen) - set(tables())):
            raise ValueError(f"expected unseen data sets among {', '.join(tables())}; got {', '.join(unknown)}")

        def some(count, *names):
            rows = np.concatenate([tables()[name] for name in names])
            if not 1 <= count <= len(rows):
                raise ValueError(f"expected 1 to {len(rows)} tasks of {', '.join(names)}; got {count}")
            return tasks_of(rows[np.sort(rng.permutation(len(rows))[:count])])

        seen = some(train, *(name for name in tables() if name not in self.unseen))
        return TaskSplit(seen, {name: some(held_out, name) for name in self.unseen}, "by data set")

    def optimal_return(self, tasks):
        return np.asarray(tasks.scores, np.float64).max(1)

    def random_return(self, tasks):
        return np.asarray(tasks.scores, np.float64).mean(1)


def tasks_of(scores: np.ndarray) -> Params:
    """Return tables `[N, 144]` as tasks."""
    return Params(jnp.ones(len(scores), jnp.int32), jnp.asarray(scores))  # pyright: ignore[reportArgumentType]
