"""ICRL4AHT (AHT-Hub/ICRL4AHT): one HDF5 file, schema_version 1, a group an environment's stream.

A group has obs float32 [T, ...], actions int32, rewards float32 and dones, and attributes task_id, env_idx and others.
`dones` are not only ends of episodes: where streams were recorded in pieces, the first piece's end is set to done by
hand (record_first_steps). Streams may be a selection, the best by their end and their increase. A recurrent expert's
labels are made with a fresh hidden state at each step. Action 0 is an action, not none.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, expand, flags, names_of, natural, reading, require
from ad_jax.formats.files_h5 import opened
from ad_jax.history.foreign import History, Origin
from ad_jax.history.write import UNKNOWN
from ad_jax.types import Discrete, Spec

VERSION = 1
LABELS = ("teammate_actions", "expert_actions")


@dataclasses.dataclass(frozen=True)
class Icrl4aht(Format):
    """ICRL4AHT: HDF5, a group an environment's stream."""

    num_actions: int | None = None  # None: one more than the largest
    episode_length: int | None = None  # None: the longest episode of the first stream

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = [file for path in paths for file in expand([path], "*.h*5")]
        streams, shapes, labels, most = [], set(), set(), 0
        for path, called in zip(files, names_of(files), strict=True):
            root = opened(path)
            version = root.attrs.get("schema_version")
            if version != VERSION:
                raise ForeignHistoriesError(f"{path.name}: schema_version {version}, expected {VERSION}")
            names = sorted(root, key=natural)
            if "num_histories" in root.attrs and int(root.attrs["num_histories"]) != len(names):
                raise ForeignHistoriesError(
                    f"{path.name}: num_histories says {root.attrs['num_histories']}, and {len(names)} are there"
                )
            for name in names:
                group, where = root[name], f"{path.name}[{name}]"
                require(where, group, ("obs", "actions", "rewards", "dones"))
                labels.update(label for label in LABELS if label in group)
                shapes.add(group["obs"].shape[1:])
                if self.num_actions is None and len(group["actions"]):
                    with reading(where):
                        most = max(most, int(group["actions"][()].max()))
                task = name if len(files) == 1 else f"{called}/{name}"  # where no attribute says it
                streams.append(Stream(where, len(group["rewards"]), functools.partial(_history, path, name, task)))
        if len(shapes) != 1:
            raise ForeignHistoriesError(f"expected obs of one shape, received {sorted(shapes)}. Import each alone")
        spec = Spec(Discrete(self.num_actions or most + 1), shapes.pop(), None)
        origin = Origin(
            resets="the environment, within the step that ends an episode",
            termination=UNKNOWN,
            memory="not known",
            labels=f"{', '.join(sorted(labels))}, not imported" if labels else "none",
            notes=("a done may be the end of a recording", "streams may be a selection by their returns"),
        )
        return Foreign(streams, origin, files, spec, episode_length=self.episode_length)


def _history(path: Path, name: str, task_id: str) -> History:
    group = opened(path)[name]
    done = flags(np.asarray(group["dones"]), f"{path.name}[{name}]: dones")
    task = group.attrs.get("task_id", task_id)
    return History(
        group["obs"][()],
        group["actions"][()],
        group["rewards"][()],
        truncated=done,
        task_id=task.decode() if isinstance(task, bytes) else str(task),
        actor=int(group.attrs.get("env_idx", 0)),
    )
