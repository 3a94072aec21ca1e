"""OmniRL (airs-cuhk/airsoul, AnyMDP records): a folder a record, an `.npy` file a field.

observations, prompts, tags, actions_behavior, actions_label and rewards. At each end of an episode there is one row
more than there are steps: the last observation, with action and label equal to the number of actions, and reward 0. It
is left out, and its step before is where the episode ends; the environment or a time limit, nobody knows. Labels are by
default what was done, not the best. The behavior's solver changes between episodes. prompts are the number of a
discount, no text.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, expand, names_of
from ad_jax.formats.zipped import load_npy
from ad_jax.history.foreign import History, Origin
from ad_jax.history.write import UNKNOWN
from ad_jax.types import Discrete, Spec

FIELDS = ("observations", "actions_behavior", "rewards")


@dataclasses.dataclass(frozen=True)
class OmniRL(Format):
    """OmniRL's records of AnyMDP: a folder each, `.npy` files."""

    num_actions: int | None = None  # None: the largest number, which marks an end
    num_states: int | None = None  # None: one more than the largest
    episode_length: int | None = None  # None: the longest episode of the first record

    beside = ("actions_label.npy", "prompts.npy", "tags.npy")

    def open(self, paths: Sequence[Path]) -> Foreign:
        folders = [path.parent for path in expand(paths, "observations.npy")]
        files = [folder / f"{field}.npy" for folder in folders for field in FIELDS]
        count = self.num_actions or max(int(_load(folder, "actions_behavior").max()) for folder in folders)
        states = self.num_states or 1 + max(int(_load(folder, "observations").max()) for folder in folders)
        streams = []
        for folder, name in zip(folders, names_of(folders), strict=True):
            action = _load(folder, "actions_behavior")
            if not (action == count).any():
                raise ForeignHistoriesError(
                    f"{folder.name}: no row has action {count}, which would mark the end of an episode. Say num_actions"
                )
            steps = int((action != count).sum())
            read = functools.partial(_history, folder, count, name)
            streams.append(Stream(name, steps, read))
        origin = Origin(
            resets="the generator, after the step that ends an episode",
            termination=UNKNOWN,
            memory="the behavior's solver changes between episodes",
            labels="actions_label, by default what was done; not imported",
            notes=("the row of the last observation of each episode is left out",),
        )
        shape = _load(folders[0], "observations").shape[1:]
        spec = Spec(Discrete(count), shape, (states,) * int(np.prod(shape, dtype=int)))
        return Foreign(streams, origin, files, spec, episode_length=self.episode_length, pieces=files)


def _history(folder: Path, count: int, name: str) -> History:
    observation, action, reward = (_load(folder, field) for field in FIELDS)
    if len({len(observation), len(action), len(reward)}) != 1:
        raise ForeignHistoriesError(
            f"{folder.name}: its arrays have {len(observation)}, {len(action)}, {len(reward)} rows"
        )
    if (action > count).any():
        raise ForeignHistoriesError(f"{folder.name}: action {action.max()} is beyond {count}, which marks an end")
    ends = action == count
    if ends[0] or (ends[1:] & ends[:-1]).any():
        raise ForeignHistoriesError(f"{folder.name}: an episode of no step. Is num_actions={count} right?")
    kept = np.flatnonzero(~ends)
    done = np.append(ends[1:], False)[kept]
    return History(observation[kept], action[kept].astype(np.int64), reward[kept], truncated=done, task_id=name)


def _load(folder: Path, field: str) -> np.ndarray:
    return load_npy(folder / f"{field}.npy", f"{folder.name}/{field}.npy")
