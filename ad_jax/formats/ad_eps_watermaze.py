"""AD-epsilon's Watermaze (corl-team/ad-eps): one HDF5 file, `data.hdf5`, a group a history, pictures channels first.

A group has obs uint8 [T, 3, 72, 96], action [T] and reward [T], and the attribute goal, (x, y) in DeepMind Lab's units.
There is no done: an episode ends with a reward, or after 50 steps, and every episode there is whole. `train_goals.txt`
beside it is in the order in which goals were asked for, groups in that in which they were finished, so it is not read.
The demonstrator is a recurrent policy whose noise is turned down from step to step.

Pictures are DeepMind Lab's. The Watermaze here (`envs/watermaze.py`) has another pool, other pictures and other moves,
so tasks are ids.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, expand, natural, require
from ad_jax.formats.files_h5 import opened
from ad_jax.history.foreign import History, Origin
from ad_jax.types import Discrete, Spec

ACTIONS = 8  # forward, back, step left, step right, turn left, turn right, turn left or right and go forward
FIELDS = ("obs", "action", "reward")


@dataclasses.dataclass(frozen=True)
class AdEpsWatermaze(Format):
    """Watermaze of AD-epsilon: HDF5, a group a history. Its tasks are ids: no world here is DeepMind Lab's."""

    episode_length: int = 50

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = [file for path in paths for file in expand([path], "*.h*5")]
        streams, shapes = [], set()
        for path in files:
            root = opened(path)
            for name in sorted(root, key=natural):
                group, where = root[name], f"{path.name}[{name}]"
                require(where, group, FIELDS)
                require(f"{where}: its attributes", group.attrs, ("goal",))
                seen = group["obs"]
                if seen.dtype != np.uint8 or seen.ndim != 4 or len({len(group[field]) for field in FIELDS}) != 1:
                    raise ForeignHistoriesError(
                        f"{where}: expected obs uint8 [T, channels, height, width] with as many actions and rewards, "
                        f"received {seen.dtype} {list(seen.shape)}, {len(group['action'])} and {len(group['reward'])}"
                    )
                shapes.add((*seen.shape[2:], seen.shape[1]))
                goal = "goal-" + "-".join(f"{x:g}" for x in np.ravel(group.attrs["goal"]))
                read = functools.partial(self._history, path, name, goal)
                streams.append(Stream(where, len(seen), read))
        if len(shapes) != 1:
            raise ForeignHistoriesError(f"expected pictures of one shape, received {sorted(shapes)}. Import each alone")
        origin = Origin(
            resets="the generator, after the step that ends an episode",
            termination="derived: an end that pays; any other is the time limit",
            memory="within an episode: a recurrent policy, whose noise is turned down",
            notes=(
                "pictures are DeepMind Lab's, and the Watermaze here is another: tasks are ids",
                "no algorithm learns in these histories",
            ),
        )
        spec = Spec(Discrete(ACTIONS), shapes.pop(), None, pixels=True)
        return Foreign(streams, origin, files, spec, episode_length=self.episode_length)

    def _history(self, path: Path, name: str, goal: str) -> History:
        group = opened(path)[name]
        seen, action, reward = (group[field][()] for field in FIELDS)
        reward = reward.reshape(-1)
        done, since = np.zeros(len(reward), bool), 0
        for step, paid in enumerate(reward > 0):
            since += 1
            if paid or since == self.episode_length:
                done[step], since = True, 0
        if since:
            raise ForeignHistoriesError(
                f"{path.name}[{name}]: its last {since} steps end no episode, and every episode there is whole: with a "
                f"reward, or after episode_length={self.episode_length} steps. Say how many there were, or get it again"
            )
        ended = done & (reward > 0)
        pictures = np.moveaxis(seen, 1, -1)
        return History(pictures, action.reshape(-1), reward, ended, done & ~ended, task_id=goal)
