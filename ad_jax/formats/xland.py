"""XLand-100B (dunnolab/xland-minigrid-datasets): one HDF5 file, a group a learner, 32 of its environments each.

A group has states uint8 [32, T, 5, 5] before each action, actions uint8, rewards float16 and dones [32, T], and
attributes env-id, benchmark-id and ruleset-id; it may have expert_actions. What a guess about it gets wrong:

    a state is tile * 12 + color: XLand-MiniGrid has 12 colors since 0.7.0, had 14 before, and the data is of after
    benchmark-id and ruleset-id do not name the task: the files of benchmarks were sampled anew in 0.9.2. The data is of
        their version 2, which 0.8 to 0.9.1 load; that is said in a task's id, and an unknown benchmark is refused
    a group's number is not its ruleset's, and "10" comes before "2" in HDF5's order: groups are read in natural order
    the 32 rows are environments of one learner, not 32 learners
    dones are of both kinds. A success pays, a time limit does not: terminated where the reward is above 0
    the last observation of an episode is not there: the environment resets within the step
    the source is recurrent and never forgets at an end; "medium" begins from a trained policy, not a random one
    expert_actions are of the final recurrent policy along the stored steps, with dropout: not the best action
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import ConfigError, ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, expand, flags, natural, require
from ad_jax.formats.files_h5 import opened, written
from ad_jax.formats.files_h5 import row as row_of
from ad_jax.formats.plain import ABOUT, about_text
from ad_jax.history.foreign import History, Origin
from ad_jax.history.store import HistoryStore
from ad_jax.types import Discrete, Spec

TILES, COLORS, ACTIONS = 13, 12, 6
BENCHMARKS = ("trivial_1m", "small_1m", "medium_1m", "high_1m", "medium_3m", "high_3m")
FIELDS = ("states", "actions", "rewards", "dones")
CHUNK = 4096  # steps of an HDF5 chunk
GZIP = 6


@dataclasses.dataclass(frozen=True)
class XLand(Format):
    """XLand-100B and files in its layout: HDF5, a group a learner."""

    benchmark: str | None = None  # of which file the rulesets are, e.g. medium_1m_v2; None: version 2 of what is said
    episode_length: int | None = None  # None: the longest episode of the first history

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = [file for path in paths for file in expand([path], "*.h*5")]
        streams: list[Stream] = []
        rows, shape = set(), set()
        about: str | None = opened(files[0]).attrs.get(ABOUT)
        for path in files:
            root = opened(path)
            if root.attrs.get(ABOUT) != about:
                raise ForeignHistoriesError(
                    f"{files[0].name} and {path.name} disagree about what they hold ({ABOUT}), so they are no "
                    "one collection. Import each alone"
                )
            for name in sorted(root, key=natural):
                group, where = root[name], f"{path.name}[{name}]"
                require(where, group, FIELDS)
                held, steps = group["states"].shape[:2]
                rows.add(held)
                shape.add((group["states"].dtype.name, group["states"].shape[2:]))
                for field in FIELDS[1:]:
                    if group[field].shape[:2] != (held, steps):
                        raise ForeignHistoriesError(f"{where}: {field} is {group[field].shape}, states {held, steps}")
                task = None if about else self._task(group.attrs, where)
                streams += [
                    Stream(f"{where}, row {row}", steps, _Row(path, name, row, task, about is not None))
                    for row in range(held)
                ]
        if len(shape) != 1:
            raise ForeignHistoriesError(f"expected states alike in all groups, received {sorted(map(str, shape))}")
        ((dtype, size),) = shape
        if about is not None:
            return _exported(about, streams, files)
        if dtype != "uint8" or len(size) != 2:
            raise ForeignHistoriesError(f"expected states uint8 [rows, T, 5, 5], received {dtype} {list(size)}")
        spec = Spec(Discrete(ACTIONS), size, (TILES * COLORS,) * int(np.prod(size)))
        origin = Origin(
            resets="the environment, within the step that ends an episode",
            termination="derived: an end that pays is a success, any other the time limit",
            memory="across episodes: a recurrent policy whose state is never reset",
            labels="expert_actions, of the final recurrent policy along the stored steps; they are not imported",
            notes=("a learner's rows are environments of its own", "a state is tile * 12 + color"),
        )
        actors = rows.pop() if len(rows) == 1 else 1
        return Foreign(streams, origin, files, spec, None, self.episode_length, "float16", actors)

    def _task(self, attrs: Any, where: str) -> str:
        """Return the id of a group's task."""
        require(where, attrs, ("env-id", "benchmark-id", "ruleset-id"))
        said = re.sub(r"[^a-z0-9]+", "_", str(attrs["benchmark-id"]).lower())
        if self.benchmark is None and said not in BENCHMARKS:
            raise ForeignHistoriesError(
                f"{where}: benchmark-id {said!r} is none of {', '.join(BENCHMARKS)}, whose version is known. From "
                "0.9.2 on, an id means other tasks than before: say benchmark=NAME_vN, the file the rulesets are of"
            )
        return f"{attrs['env-id']}:{self.benchmark or f'{said}_v2'}:{attrs['ruleset-id']}"

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write a group a learner: a chunk is in memory at a time. What the layout has no place for is an attribute."""
        m = store.manifest
        if not isinstance(m.spec.action, Discrete) or m.spec.observation_dtype != np.uint8 or len(m.spec.shape) != 2:
            raise ConfigError(
                f"XLand's layout holds Discrete actions and observations uint8 [rows, columns]; these are "
                f"{m.spec.action} and {m.spec.observation_dtype} {list(m.spec.shape)}. Export to npz or hdf5"
            )
        if m.next_observation or m.preferences or m.features:
            raise ConfigError(
                "XLand's layout has no next_observation, no preferences and no features. Export to npz or hdf5"
            )
        actors, ids = m.source["actors"], store.task_ids
        with written(out) as file:
            file.attrs[ABOUT] = about_text(store)
            for chunk in store.chunks:
                held, first = store.fields([chunk], m.fields), m.rows(chunk)[0]
                for row in range(0, len(held["reward"]), actors):
                    rows = slice(row, row + actors)
                    group = file.create_group(str((first + row) // actors))
                    done = held["terminated"][rows] | held["truncated"][rows]
                    arrays = {"states": held["observation"][rows], "actions": held["action"][rows]}
                    arrays |= {"rewards": held["reward"][rows], "dones": done, "terminated": held["terminated"][rows]}
                    arrays |= {"truncated": held["truncated"][rows]}
                    for name, x in arrays.items():
                        piece = (1, min(CHUNK, m.steps), *x.shape[2:])
                        group.create_dataset(name, data=x, chunks=piece, compression="gzip", compression_opts=GZIP)
                    for name in (n for n in held if n.startswith("task/") or n in ("seed_index", "actor")):
                        group.create_dataset(name, data=held[name][rows])
                    group.attrs["env-id"] = str(m.family.get("name"))
                    group.attrs["benchmark-id"], group.attrs["ruleset-id"] = "none", ids[first + row]
                    group.attrs["task_ids"] = ids[first + row : first + row + len(done)]


@dataclasses.dataclass(frozen=True)
class _Row:
    """One environment of a group."""

    path: Path
    group: str
    row: int
    task: str | None
    exported: bool

    def __call__(self) -> History:
        group, row = opened(self.path)[self.group], self.row
        state, action, reward = (row_of(group[name], row) for name in FIELDS[:3])
        where = f"{self.path.name}[{self.group}], row {row}"
        if self.exported:
            tasks = {name: array[row] for name, array in group.get("task", {}).items()}
            return History(
                state,
                action,
                reward,
                group["terminated"][row],
                group["truncated"][row],
                str(group.attrs["task_ids"][row]),
                tasks,
                int(group["seed_index"][row]),
                int(group["actor"][row]),
            )
        if state.size and state.max() >= TILES * COLORS:
            raise ForeignHistoriesError(
                f"{where}: state {state.max()} is no tile * {COLORS} + color with {TILES} tiles. Before 0.7.0 "
                "XLand-MiniGrid had 14 colors: decode it with that version, and import plain arrays"
            )
        done = flags(row_of(group["dones"], row), f"{where}: dones")
        return History(state, action, reward, done & (reward > 0), done & ~(reward > 0), self.task, actor=row)


def _exported(about: Any, streams: list[Stream], files: list[Path]) -> Foreign:
    """Return what an export of ours holds."""
    from ad_jax.files import parse
    from ad_jax.formats.base import family_of
    from ad_jax.history.write import OPAQUE

    told = parse(about)
    named = told["family"]["name"] != OPAQUE
    return Foreign(
        streams,
        Origin(termination="recorded"),
        files,
        None if named else Spec.from_json(told["spec"]),
        family_of(told["family"]["name"], told["family"]["options"]) if named else None,
        told["episode_length"],
        told["reward_dtype"],
        told["actors"],
        True,
    )
