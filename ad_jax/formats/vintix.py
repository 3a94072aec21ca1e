"""Vintix I and II (dunnolab/vintix, vintix-II): a folder a task, a JSON file and `.h5` files of one trajectory each.

Inside a file are groups "first-last" of up to 10,000 steps, which are read in the order of their numbers: HDF5 lists
"10000-19999" before "2-3". A group has proprio_observation, action, reward and step_num. There is no done: an episode
begins where step_num is 0, nobody knows why the one before ended, and the last one may be cut. Rewards and observations
are raw; the scale and the statistics are in the project's configuration. The trajectories are those of demonstrators
whose noise is turned down: no algorithm learns in them. Vintix II adds the demonstrator's own action, which is not
imported.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, box, expand, names_of, reading, require
from ad_jax.formats.files_h5 import opened
from ad_jax.history.foreign import History, Origin
from ad_jax.history.write import UNKNOWN
from ad_jax.types import Spec

FIELDS = ("proprio_observation", "action", "reward", "step_num")
LABELS = ("demonstrator_actions", "demonstrator_action", "expert_action")


@dataclasses.dataclass(frozen=True)
class Vintix(Format):
    """Vintix I and II: a folder a task, HDF5 files of one trajectory each."""

    low: float | None = None  # bounds of actions; None: those of the data
    high: float | None = None
    episode_length: int | None = None  # None: the longest episode of the first trajectory

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = expand(paths, "*.h5")
        streams, shapes, labels = [], set(), set()
        for path, task in zip(files, names_of([path.parent for path in files]), strict=True):
            names = _groups(path)
            root = opened(path)
            for name in names:
                require(f"{path.name}[{name}]", root[name], FIELDS)
                labels.update(label for label in LABELS if label in root[name])
            steps = sum(len(root[name]["reward"]) for name in names)
            first = root[names[0]]
            shapes.add((first["proprio_observation"].shape[1:], first["action"].shape[1:]))
            streams.append(Stream(path.name, steps, functools.partial(_history, path, names, task)))
        if len(shapes) != 1:
            raise ForeignHistoriesError(
                f"a collection holds observations and actions of one shape; received {sorted(shapes)}. Import the "
                "tasks of each alone"
            )
        ((seen, acted),) = shapes
        low, high = self._bounds(files)
        origin = Origin(
            resets="the environment, within the step that ends an episode",
            termination=UNKNOWN,
            memory="none: demonstrators, whose noise is turned down",
            labels=f"{', '.join(sorted(labels))}, not imported" if labels else "none",
            notes=("rewards and observations are raw", "no algorithm learns in these histories"),
        )
        return Foreign(
            streams, origin, files, Spec(box(acted, low, high), seen, None), episode_length=self.episode_length
        )

    def _bounds(self, files: Sequence[Path]) -> tuple[tuple[float, ...] | float, tuple[float, ...] | float]:
        if self.low is not None and self.high is not None:
            return self.low, self.high
        lows, highs = [], []
        for path in files:  # only a few of which are open at a time
            with reading(path.name):
                for name in _groups(path):
                    action = opened(path)[name]["action"][()]
                    lows, highs = [*lows, action.min(axis=0)], [*highs, action.max(axis=0)]
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        return (
            tuple(map(float, np.ravel(low))) if self.low is None else self.low,
            tuple(map(float, np.ravel(high))) if self.high is None else self.high,
        )


def _groups(path: Path) -> list[str]:
    """Return the groups of a file in time, without a gap."""
    names = [name for name in opened(path) if name.partition("-")[0].isdigit()]
    if not names:
        raise ForeignHistoriesError(
            f"{path.name}: expected groups named first-last, received {sorted(opened(path))[:4]}"
        )
    names.sort(key=lambda name: int(name.partition("-")[0]))
    at = int(names[0].partition("-")[0])
    for name in names:
        if int(name.partition("-")[0]) != at:
            raise ForeignHistoriesError(
                f"{path.name}: group {name} does not begin at step {at}, where the one before ends. Is one missing?"
            )
        at += len(opened(path)[name]["reward"])
    return names


def _history(path: Path, names: list[str], task: str) -> History:
    def whole(field: str) -> np.ndarray:
        return np.concatenate([opened(path)[name][field][()] for name in names])

    number = whole("step_num").reshape(-1)
    done = np.append(number[1:] == 0, False)
    if not ((number[1:] == number[:-1] + 1) | done[:-1]).all():
        step = int((~((number[1:] == number[:-1] + 1) | done[:-1])).argmax()) + 1
        raise ForeignHistoriesError(
            f"{path.name}: step_num is {number[step]} after {number[step - 1]} at step {step}, expected one more, or 0"
        )
    held = (whole(field) for field in ("proprio_observation", "action", "reward"))
    observation, action, reward = held
    return History(observation, action, reward.reshape(-1), truncated=done, task_id=task)
