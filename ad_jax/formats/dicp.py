"""DICP (jaehyeon-son/dicp): one HDF5 file, group i is task i of the unshuffled list, 100 learners side by side.

Groups have no attributes. Arrays are time first: states and next_states int32 [T, 100, 2], actions, rewards, dones
[T, 100]; optimal_actions alone is [100, T]. Tasks are counted row by row: goals, or key row, key column, door row, door
column. Actions are down, up, right, left, stay, which are renamed; next_states at an end is what the reset gave, so it
is not taken for the last observation.

Of permuted rooms (`env=dark_room_permuted`) a group's number is that of a permutation in the order of
`itertools.permutations`: what their action a does is their move perm[a]. Actions keep their numbers there, and the task
says in our moves what each does. The goal is the last cell and the start the first one.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import num_tasks, take
from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.dark_room_permuted import DarkRoomPermuted
from ad_jax.envs.leaves import task_leaves
from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats import kept
from ad_jax.formats.base import Foreign, Format, Stream, expand, flags, natural, require
from ad_jax.formats.files_h5 import opened
from ad_jax.history.foreign import History, Origin
from ad_jax.types import PyTree

OURS = np.array([1, 2, 3, 4, 0])  # down, up, right, left, stay, as they are called here
LAST = "dicp"  # the group that is kept


@dataclasses.dataclass(frozen=True)
class Dicp(Format):
    """Dark Room, permuted or not, and Key-to-Door of DICP: HDF5, a group a task, time first."""

    env: Literal["dark_room", "dark_key_to_door", "dark_room_permuted"] = "dark_room"
    size: int = 9
    episode_length: int | None = None  # None: 20 in Dark Room, 50 in the others
    start: Literal["center", "corner", "random"] | None = None  # None: the center, in permuted rooms the corner
    reward: Literal["every_step", "once", "terminate"] | None = None  # None: every step, in Key-to-Door once

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = [file for path in paths for file in expand([path], "*.h*5")]
        family, streams = self._family(), []
        table = self._tasks(family)
        for path in files:
            root = opened(path)
            for name in sorted(root, key=natural):
                where = f"{path.name}[{name}]"
                require(where, root[name], ("states", "actions", "rewards", "dones"))
                if not name.isdigit() or int(name) >= num_tasks(table):
                    raise ForeignHistoriesError(
                        f"{where}: group {name} is the number of no task: {family} has {num_tasks(table)}. Say its env "
                        "and size"
                    )
                steps, learners = root[name]["rewards"].shape
                if root[name]["states"].shape != (steps, learners, 2):
                    raise ForeignHistoriesError(
                        f"{where}: expected states [T, learners, 2] with T = {steps}, received "
                        f"{list(root[name]['states'].shape)}"
                    )
                task = task_leaves(take(table, int(name)))
                streams += [
                    Stream(f"{where}, learner {i}", steps, _Learner(path, name, i, task, self)) for i in range(learners)
                ]
        origin = Origin(
            resets="the generator, after the step that ends an episode",
            termination="by the rule of the world",
            memory="none: PPO on the cell",
            labels="optimal_actions [learners, T]; they are not imported",
            notes=(
                "what each action does is renamed to ad_jax's" if self.permuted else "actions are renamed to ad_jax's",
                "next_states at an end is the next episode's first: not imported",
            ),
        )
        return Foreign(streams, origin, files, family=family)

    @property
    def permuted(self) -> bool:
        """Whether actions do something else in each task."""
        return self.env == "dark_room_permuted"

    def _family(self) -> DarkRoom | DarkKeyToDoor:
        start = self.start or ("corner" if self.permuted else "center")
        if self.env == "dark_room":
            return DarkRoom(self.size, self.episode_length or 20, start, self.reward or "every_step")
        if self.permuted:
            steps, reward = self.episode_length or 50, self.reward or "every_step"
            return DarkRoomPermuted(self.size, steps, start, reward, goals="corner")
        return DarkKeyToDoor(self.size, self.episode_length or 50, start, self.reward or "once")

    def _tasks(self, family: DarkRoom | DarkKeyToDoor) -> PyTree:
        """Return all tasks `[N]` in the order of their numbers there."""
        table: PyTree = family.all_tasks()
        if not self.permuted:
            return table
        orders = np.array(list(itertools.permutations(range(len(OURS)))))
        return table.replace(moves=jnp.asarray(OURS[orders], jnp.int32))


@dataclasses.dataclass(frozen=True)
class _Learner:
    """One learner of a group."""

    path: Path
    group: str
    number: int
    task: dict[str, np.ndarray]
    format: Dicp

    def __call__(self) -> History:
        state, action, reward, done = (x[:, self.number] for x in _group(self.path, self.group))
        where = f"{self.path.name}[{self.group}], learner {self.number}"
        if ((action < 0) | (action >= len(OURS))).any():
            raise ForeignHistoriesError(f"{where}: an action is none of 0 to 4")
        done = flags(done, f"{where}: dones")
        ends = done & (reward > 0) if self.format.reward == "terminate" else np.zeros_like(done)
        acted = action if self.format.permuted else OURS[action]
        return History(state, acted, reward, ends, done & ~ends, task=self.task, seed_index=self.number)


def _group(path: Path, name: str) -> tuple[np.ndarray, ...]:
    """Return a group's arrays, the last one's kept: time comes first, so every learner would read all of them again."""
    held = kept.find(LAST)
    if held is None or held[0] != (path, name):
        group = opened(path)[name]
        arrays = tuple(group[field][()] for field in ("states", "actions", "rewards", "dones"))
        held = kept.keep(LAST, ((path, name), arrays), lambda: None)
    return held[1]
