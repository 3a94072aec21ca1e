"""Minari's datasets in HDF5: a folder with `data/metadata.json` and `data/main_data.hdf5`, a group an episode.

Minari keeps episodes, not who lived them. A dataset is read as one history, its episodes in the order of their
numbers, unless they say otherwise in the attribute `history`, as an export of ours does. An episode has one observation
more than it has steps, so the last one before a reset is there. Pictures are JPEG unless `jpeg_encoding` is false, and
are refused, because other bits would come out than went in. Reading needs h5py alone; writing needs minari, which names
the spaces.
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import ForeignHistoriesError, HistoryError
from ad_jax.files import Json, JsonObject, parse, read_json
from ad_jax.formats.base import Foreign, Format, Stream, expand, family_of, flags, library, names_of, natural, require
from ad_jax.formats.files_h5 import opened
from ad_jax.formats.plain import ABOUT, about_of
from ad_jax.history.foreign import History, Origin
from ad_jax.history.store import HistoryStore
from ad_jax.history.write import OPAQUE
from ad_jax.types import Box, Discrete, Spec

META, MAIN = "metadata.json", "main_data.hdf5"
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
TASK = "task."
INFOS = ("preferences", "features")  # what is stored of a step that Minari has no name for


@dataclasses.dataclass(frozen=True)
class Minari(Format):
    """Datasets of Minari: a folder each, one history, or several where its episodes say so."""

    episode_length: int | None = None  # None: the longest episode of the first history
    values: tuple[int, ...] | None = None  # of each component of whole observations; None: those of the stated space

    def open(self, paths: Sequence[Path]) -> Foreign:
        folders = [path.parent for path in expand(paths, META)]
        names = names_of([folder.parent for folder in folders])  # of one name in two namespaces they are two tasks
        found = [self._dataset(folder, name) for folder, name in zip(folders, names, strict=True)]
        first = found[0]
        if odd := [one for one in found if one.spec != first.spec or one.family != first.family]:
            raise ForeignHistoriesError(f"expected datasets alike, received {first.spec} and {odd[0].spec}")
        streams = [stream for one in found for stream in one.streams]
        return dataclasses.replace(first, streams=streams, files=[file for one in found for file in one.files])

    def _dataset(self, folder: Path, called: str) -> Foreign:
        meta = read_json(folder / META, error=ForeignHistoriesError, remedy="get it again")
        if meta.get("data_format", "hdf5") != "hdf5" or not (folder / MAIN).is_file():
            raise ForeignHistoriesError(
                f"{folder}: data_format {meta.get('data_format')!r}, expected hdf5, with {MAIN}. Minari's "
                "create_dataset_from_buffers writes it with data_format='hdf5'"
            )
        root, about = opened(folder / MAIN), parse(meta.get(ABOUT, "{}"))
        episodes = sorted(root, key=natural)
        if int(meta.get("total_episodes", len(episodes))) != len(episodes):
            raise ForeignHistoriesError(
                f"{folder}: total_episodes says {meta['total_episodes']}, and {len(episodes)} are there. Is it cut?"
            )
        histories: dict[int, list[str]] = {}
        for name in episodes:
            require(f"{folder.name}[{name}]", root[name], FIELDS)
            histories.setdefault(int(root[name].attrs.get("history", -1)), []).append(name)
        if odd := [f for f in ("observations", "actions") if not hasattr(root[episodes[0]][f], "dtype")]:
            raise ForeignHistoriesError(f"{folder}: {odd[0]} are a dict or a tuple. Flatten them into one array first")
        seen, stated = root[episodes[0]]["observations"], parse(meta.get("observation_space", "{}"))
        if seen.dtype.kind not in "biuf" or seen.shape[1:] != tuple(stated.get("shape") or ()):
            raise ForeignHistoriesError(
                f"{folder}: observations are {seen.dtype} {list(seen.shape[1:])}, their space is of "
                f"{stated.get('shape')}. Pictures are JPEG there, other bits than were seen: make the dataset anew "
                "with jpeg_encoding=False"
            )
        streams = []
        for number in sorted(histories):
            names = histories[number]
            steps = sum(len(root[name]["rewards"]) for name in names)
            where = f"{called}, history {max(number, 0)}"
            read = _Episodes(folder / MAIN, tuple(names), called, about)
            streams.append(Stream(where, steps, read))
        named = about.get("family", {}).get("name", OPAQUE) != OPAQUE
        return Foreign(
            streams,
            Origin(
                resets="Minari's collector, before an episode",
                terminal_observation=about.get("next_observation", not about),
                termination="recorded",
            ),
            [folder / META, folder / MAIN],
            None if named else Spec.from_json(about["spec"]) if about else self._spec(meta, folder),
            family_of(about["family"]["name"], about["family"]["options"]) if named else None,
            self.episode_length or about.get("episode_length"),
            about.get("reward_dtype"),
            about.get("actors", 1),
            bool(about),
        )

    def _spec(self, meta: JsonObject, folder: Path) -> Spec:
        require(f"{folder}/{META}", meta, ("observation_space", "action_space"), "Say them when the dataset is made")
        seen, acted = (parse(meta[name]) for name in ("observation_space", "action_space"))
        if acted["type"] == "Discrete":
            action: Discrete | Box = Discrete(acted["n"])
        elif acted["type"] != "Box":
            raise ForeignHistoriesError(
                f"{folder}: actions are {acted['type']}, expected a Box or Discrete space. Number them anew, one whole "
                "number for each combination"
            )
        else:
            action = Box(tuple(acted["shape"]), *(tuple(np.ravel(acted[end]).tolist()) for end in ("low", "high")))
        if seen["type"] == "Discrete":
            return Spec(action, (), (seen["n"],))
        if seen["type"] != "Box":
            raise ForeignHistoriesError(f"{folder}: observations are {seen['type']}, expected a Box or Discrete space")
        shape = tuple(seen["shape"])
        if self.values is None and np.dtype(seen["dtype"]).kind == "f":
            return Spec(action, shape, None)
        if self.values is None and seen["dtype"] == "uint8" and len(shape) == 3:
            return Spec(action, shape, None, pixels=True)
        most = self.values or tuple(int(x) + 1 for x in np.ravel(seen["high"]))
        return Spec(action, shape, most)

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write one dataset, whose episodes say which history they are of; pictures are not encoded."""
        minari = library("minari")
        from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]
        from minari.dataset.minari_storage import MinariStorage  # pyright: ignore[reportMissingImports]

        m, fresh = store.manifest, out.with_name(f".{out.name}.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        data = fresh / "data"
        data.mkdir(parents=True)
        storage = MinariStorage.new(data, *_spaces(m.spec), data_format="hdf5", jpeg_encoding=False)
        for chunk in store.chunks:
            held, first = store.fields([chunk], m.fields), m.rows(chunk)[0]
            for row in range(len(held["reward"])):
                done = held["terminated"][row] | held["truncated"][row]
                if m.next_observation:
                    _check_next(held["observation"][row], held["next_observation"][row], done, first + row)
                borders = [0, *(np.flatnonzero(done) + 1).tolist()]
                borders += [m.steps] if borders[-1] < m.steps else []
                buffers, attrs = [], []
                for a, b in itertools.pairwise(borders):
                    one = {name: x[row, a:b] for name, x in held.items() if not name.startswith("task/") and x.ndim > 1}
                    last = one["next_observation"][-1:] if m.next_observation else one["observation"][-1:]
                    buffers.append(
                        EpisodeBuffer(
                            observations=np.concatenate([one["observation"], last]),
                            actions=one["action"],
                            rewards=one["reward"],
                            terminations=one["terminated"],
                            truncations=one["truncated"],
                            infos={name: one[name] for name in INFOS if name in one} or None,
                        )
                    )
                    attrs.append(_attrs(held, row, first + row, store.task_ids[first + row]))
                at = storage.total_episodes
                storage.update_episodes(buffers)
                storage.update_episode_metadata(attrs, range(at, at + len(buffers)))
        told = about_of(store) | {"next_observation": m.next_observation}
        meta = {"dataset_id": f"ad_jax/{out.name}-v0", "minari_version": f"=={minari.__version__}"}
        storage.update_metadata(meta | {ABOUT: json.dumps(told, sort_keys=True)})
        fresh.replace(out)


@dataclasses.dataclass(frozen=True)
class _Episodes:
    """One history: some episodes of a dataset, in order."""

    path: Path
    names: tuple[str, ...]
    dataset: str
    about: JsonObject

    def __call__(self) -> History:
        root = opened(self.path)
        parts: dict[str, list[np.ndarray]] = {}
        for number, name in enumerate(self.names, 1):
            group = root[name]
            seen = group["observations"][()]
            if len(seen) != len(group["rewards"]) + 1:
                raise ForeignHistoriesError(
                    f"{self.dataset}[{name}]: expected {len(group['rewards']) + 1} observations, one more than steps, "
                    f"received {len(seen)}"
                )
            one = {"observation": seen[:-1], "next_observation": seen[1:], "action": group["actions"][()]}
            one |= {"reward": group["rewards"][()]}
            for ours, theirs in (("terminated", "terminations"), ("truncated", "truncations")):
                one[ours] = flags(group[theirs][()], f"{self.dataset}[{name}]: {theirs}")
            if number < len(self.names) and not (one["terminated"][-1:] | one["truncated"][-1:]).all():
                one["truncated"] = np.append(one["truncated"][:-1], True)  # the next one begins, nobody knows why
            infos = group.get("infos", {})
            one |= {name: infos[name][()] for name in INFOS if name in infos}
            for field, x in one.items():
                parts.setdefault(field, []).append(x)
        whole: dict[str, Any] = {field: np.concatenate(x) for field, x in parts.items()}
        if self.about and not self.about.get("next_observation"):
            del whole["next_observation"]
        attrs = root[self.names[0]].attrs
        tasks = {name.removeprefix(TASK): attrs[name] for name in attrs if name.startswith(TASK)}
        numbers = {name: int(attrs.get(name, 0)) for name in ("seed_index", "actor")}
        return History(**whole, task_id=str(attrs.get("task_id", self.dataset)), task=tasks, **numbers)


def _check_next(observation: np.ndarray, after: np.ndarray, done: np.ndarray, number: int) -> None:
    """Raise HistoryError where what an action led to is not what is seen next in the same episode: one is stored."""
    odd = (observation[1:] != after[:-1]).reshape(len(done) - 1, -1).any(axis=1) & ~done[:-1]
    if odd.any():
        raise HistoryError(
            f"history {number}: at step {int(odd.argmax())} next_observation is not the next step's observation, and "
            "Minari holds one of them. Export to npz or hdf5"
        )


def _attrs(held: dict[str, np.ndarray], row: int, number: int, task_id: str) -> JsonObject:
    """Return what an episode says of its history."""
    found: JsonObject = {"history": number, "task_id": task_id}
    found |= {name: int(held[name][row]) for name in ("seed_index", "actor")}
    return found | {f"{TASK}{n.removeprefix('task/')}": x[row] for n, x in held.items() if n.startswith("task/")}


def _spaces(spec: Spec) -> tuple[Json, Json]:
    """Return observations and actions as spaces of Gymnasium."""
    from gymnasium import spaces

    if isinstance(spec.action, Discrete):
        action: Json = spaces.Discrete(spec.action.n)
    else:
        action = spaces.Box(*spec.action.bounds, dtype=np.float32)
    dtype: Any = spec.observation_dtype
    if spec.pixels:
        return spaces.Box(0, 255, spec.shape, dtype), action
    if spec.values is None:
        return spaces.Box(-np.inf, np.inf, spec.shape, dtype), action
    high = np.reshape(np.array(spec.values) - 1, spec.shape).astype(dtype)
    return spaces.Box(np.zeros_like(high), high, dtype=dtype), action
