"""A collection of histories that somebody else collected, from an iterator: bounded memory, killed and gone on with.

    histories = (History(o, a, r, terminated, truncated, task_id=f"machine-{i}") for i, (o, a, ...) in enumerate(logs))
    write_histories("runs/mine", histories, Spec(Discrete(4), (6,), None), count=len(logs))

In: histories one after another, all of the same number of steps, and a `Spec`, or a task family, of which each then
names the task. Out: a collection like any other. A chunk of histories is in memory at a time. The same call goes on
where one was killed; input that cannot be is one error, and nothing of it stays.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from numpy.typing import DTypeLike

from ad_jax import values
from ad_jax.envs import FAMILIES
from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.envs.leaves import task_leaves, tasks_of
from ad_jax.errors import ForeignHistoriesError
from ad_jax.files import JsonObject
from ad_jax.history import dynamics, foreign
from ad_jax.history import ledger as format_
from ad_jax.history import returns as history_returns
from ad_jax.history.access import connect, named
from ad_jax.history.foreign import IMPORTED, History, Origin
from ad_jax.history.manifest import Leaf
from ad_jax.history.store import HistoryStore, HistoryWriter, Manifest, Url, open_store
from ad_jax.process.metrics import Progress
from ad_jax.registry import name_of
from ad_jax.types import Histories, Spec, Transition

Reader = Callable[[int], Iterator[History]]  # the histories from a number on
CHUNK = 2**26  # bytes of a chunk, before compression; a learner's actors are always together
OPAQUE = "opaque"  # name of the family in the manifest of tasks that are ids and nothing else
SPARSE = 61  # of observations, every so many steps tell one history from another


def write_histories(
    url: Url,
    histories: Iterable[History] | Reader,
    spec: Spec | None = None,
    *,
    family: TaskFamily | None = None,
    count: int | None = None,
    episode_length: int | None = None,
    reward_dtype: DTypeLike | None = None,
    actors: int = 1,
    origin: Origin | None = None,
    allow_duplicates: bool = False,
    progress_seconds: float = 5.0,
) -> HistoryStore:
    """Write histories as a collection, or go on with one that the same call began.

    Args:
        url: directory, or a `gs://` or `s3://` URL.
        histories: one after another, each of as many steps; or a function that gives those from a number on.
        spec: of observations and actions, for tasks that are *opaque*: ids, which can be trained on and not simulated.
        family: of the tasks, in the place of `spec`. Each history's `task` holds the leaves that differ from the
            family's defaults, and every step is checked against the family's own dynamics where a start can be set.
        count: how many there are; None where `histories` has a length. Where there are more or fewer, that is said as
            soon as it is seen: at once of what has a length, and where a function gives one after `count`, for which it
            is asked first; else before the last chunk.
        episode_length: most steps of an episode; None for the family's, or for the longest of the first history.
        reward_dtype: that holds every reward exactly; None for the family's, or float32.
        actors: of one learner, whose histories follow each other.
        origin: how they came to be.
        allow_duplicates: whether two histories may be equal in everything; they are mostly a mistake.
        progress_seconds: at most one progress line in so many seconds.

    Returns:
        The finished collection.

    Raises:
        ForeignHistoriesError: naming the history that cannot be, and why; nothing of the collection stays. For more or
            fewer histories than `count`, finished chunks do.
        HistoryError: if `url` holds something else or cannot be written; finished chunks are kept.
    """
    if (spec is None) == (family is None):
        raise ForeignHistoriesError("write_histories: expected a spec or a family, and not both")
    if count is None:
        if not isinstance(histories, Sized):
            raise ForeignHistoriesError("write_histories: expected count, the number of histories, with an iterator")
        count = len(histories)
    read, first = _reader(cast(Any, histories))
    if count < 1 or first is None:
        raise ForeignHistoriesError("write_histories: expected at least one history, received none")
    if isinstance(histories, Sized) and len(histories) != count:
        raise _AnotherNumberError(f"expected {count} histories, received {len(histories)}. {COUNT}")
    if callable(histories) and next(read(count), None) is not None:
        raise _AnotherNumberError(f"expected {count} histories, received more. {COUNT}")
    writing = _Writing(
        spec, family, count, episode_length, reward_dtype, actors, origin or Origin(), first, allow_duplicates
    )
    with HistoryWriter.open(url, writing.manifest) as writer:
        try:
            writing.run(writer, url, read, progress_seconds)
        except ForeignHistoriesError as error:
            writer.flush()
            if not (isinstance(error, _AnotherNumberError) and writer.finished):
                _forget(url)
            raise
    return open_store(url)


def _reader(histories: Iterable[History] | Reader) -> tuple[Reader, History | None]:
    """Return what reads from a number on, and the first history."""
    if callable(histories):
        read = cast(Reader, histories)
        return read, next(read(0), None)
    rest = iter(histories)
    first = next(rest, None)
    whole = itertools.chain([] if first is None else [first], rest)
    return lambda number: itertools.islice(whole, number, None), first


@dataclasses.dataclass
class _Writing:
    """A collection that is written: what does not change from chunk to chunk."""

    spec: Spec | None
    family: TaskFamily | None
    count: int
    episode_length: int | None
    reward_dtype: DTypeLike | None
    actors: int
    origin: Origin
    first: History
    allow_duplicates: bool

    def __post_init__(self) -> None:
        family, first = self.family, self.first
        spec = spec_of(family) if family is not None else cast(Spec, self.spec)
        longest = self.episode_length or (family.episode_length if family is not None else None)
        steps = len(first.reward)
        if self.count % self.actors:
            raise ForeignHistoriesError(f"expected a multiple of actors={self.actors} histories, received {self.count}")
        if longest is None:
            longest = _longest(first)
        dtype = family.reward_dtype if family is not None else np.dtype(self.reward_dtype or np.float32)
        leaves = self.leaves(first, 0)
        manifest = Manifest(
            family={"name": OPAQUE, "options": {}}
            if family is None
            else {"name": name_of(type(family), FAMILIES), "options": family.options},
            source={"name": IMPORTED, "config": {"format": self.origin.format}, "actors": self.actors},
            spec=spec,
            task_leaves={
                name: Leaf(shape=list(np.shape(leaf)), dtype=np.asarray(leaf).dtype.name)
                for name, leaf in leaves.items()
            },
            reward_dtype=dtype.name,
            histories=self.count,
            steps=steps,
            episode_length=longest,
            chunk_histories=1,
            next_observation=first.next_observation is not None,
            preferences=first.preferences is not None,
            features=0 if first.features is None else np.shape(first.features)[-1],
            provenance=self.origin.to_json(),
        )
        each = sum(dtype.itemsize * math.prod(shape) for shape, dtype in manifest.fields.values())
        chunk = max(1, CHUNK // (each * self.actors)) * self.actors
        self.manifest = Manifest.from_json(manifest.to_json() | {"chunk_histories": min(chunk, self.count)})

    def leaves(self, history: History, number: int) -> dict[str, np.ndarray]:
        """Return the task of a history as stored: the family's defaults, and what the history says."""
        if self.family is None:
            return {name: np.asarray(leaf) for name, leaf in history.task.items()}
        plain = jax.tree.map(jnp.asarray, self.family.default_params)  # Python's numbers get the dtype that tasks have
        known = {name: np.asarray(leaf) for name, leaf in task_leaves(plain).items()}
        if odd := sorted(history.task.keys() - known.keys()):
            raise ForeignHistoriesError(
                f"history {number}: tasks of {self.family.name} have {sorted(known)}; received {', '.join(odd)}"
            )
        given = {name: np.asarray(leaf) for name, leaf in history.task.items()}
        what = f"history {number}: task"
        fits = {
            n: foreign.column(x[None], (1, *known[n].shape), known[n].dtype, f"{what} {n}") for n, x in given.items()
        }
        return known | {name: x[0] for name, x in fits.items()}

    def run(self, writer: HistoryWriter, url: Url, read: Reader, seconds: float) -> None:
        """Write every chunk that is not finished."""
        m = self.manifest
        seen = self._seen(url, sorted(writer.finished))
        todo = [chunk for chunk in range(m.chunks) if chunk not in writer.finished]
        done = self.count - sum(end - first for first, end in map(m.rows, todo))
        progress = Progress("import", self.count, "histories", done, seconds, m.steps)
        if done:
            progress.note(f"{done} of {self.count} histories are there already")
        first = m.rows(todo[0])[0] if todo else self.count
        rest, at = read(first), first
        room = {name: np.empty((m.chunk_histories, *shape), dtype) for name, (shape, dtype) in m.fields.items()}
        for chunk in todo:
            first, end = m.rows(chunk)
            while at < first:  # chunks that were finished out of order
                next(rest, None)
                at += 1
            arrays = {name: x[: end - first] for name, x in room.items()}
            ids = []
            for number in range(first, end):
                if (history := next(rest, None)) is None:
                    raise self._another_number(str(number))
                ids.append(self._fill(history, number, number - first, arrays))
            at = end
            histories = self._histories(arrays, ids)
            self._check(histories, np.arange(first, end), seen)
            if at == self.count and next(rest, None) is not None:
                raise self._another_number("more")
            writer.write(chunk, histories, self._earned(histories))
            done += end - first
            progress.update(done)

    def _another_number(self, received: str) -> "_AnotherNumberError":
        return _AnotherNumberError(
            f"expected {self.count} histories, received {received}. {COUNT}, in another directory; chunks that were "
            "complete are kept, and the same call goes on with them if it is given as many as it says"
        )

    def _fill(self, history: History, number: int, row: int, arrays: Mapping[str, np.ndarray]) -> str:
        """Put a history into its row; returns its task's id."""
        m, what = self.manifest, f"history {number}"
        stored = format_.TRANSITION
        for name in stored:
            if name not in arrays:
                if getattr(history, name) is not None:
                    raise ForeignHistoriesError(f"{what} has {name}, and the first history has none")
                continue
            given = getattr(history, name)
            if given is None and name not in foreign.FLAGS:
                raise ForeignHistoriesError(f"{what} has no {name}")
            shape, dtype = m.fields[name]
            arrays[name][row] = 0 if given is None else foreign.column(given, shape, dtype, f"{what}: {name}")
        foreign.check_episodes(arrays["terminated"][row] | arrays["truncated"][row], what, m.episode_length)
        leaves = self.leaves(history, number)
        if leaves.keys() != m.task_leaves.keys():
            raise ForeignHistoriesError(
                f"{what}: expected a task of {sorted(m.task_leaves)}, received {sorted(leaves)}"
            )
        for name, leaf in leaves.items():
            shape, dtype = m.fields[f"task/{name}"]
            arrays[f"task/{name}"][row] = foreign.column(leaf[None], (1, *shape), dtype, f"{what}: task {name}")[0]
        arrays["seed_index"][row], arrays["actor"][row] = history.seed_index, history.actor
        if self.family is None:
            if history.task_id is None:
                raise ForeignHistoriesError(f"{what}: expected a task_id, which tells its task from others")
            return str(history.task_id)
        return self.family.task_ids(tasks_of(self.family, {name: leaf[None] for name, leaf in leaves.items()}))[0]

    def _histories(self, arrays: Mapping[str, np.ndarray], ids: list[str]) -> Histories:
        tasks = {name: arrays[f"task/{name}"] for name in self.manifest.task_leaves}
        transition = Transition(*(arrays.get(name) for name in format_.TRANSITION))
        return Histories(transition, tasks, ids, arrays["seed_index"], arrays["actor"])

    def _check(self, histories: Histories, numbers: np.ndarray, seen: dict[bytes, int]) -> None:
        """Look through a chunk: values, copies, and the family's own dynamics."""
        if where := values.wrong(histories, self.manifest.spec, numbers):
            raise ForeignHistoriesError(f"{where}. Mend the file, or state the range that it has")
        for number, content in zip(numbers.tolist(), _contents(histories.transition), strict=True):
            if (other := seen.setdefault(content, number)) != number and not self.allow_duplicates:
                raise ForeignHistoriesError(
                    f"history {number} is history {other} once more: the same observations, actions and rewards, step "
                    "by step. A file was given twice, or written over another: leave one out, or say that they are "
                    "meant (allow_duplicates=true)"
                )
        if self.family is not None:
            known = self.origin.termination != UNKNOWN
            dynamics.check(self.family, histories, numbers, known)

    def _earned(self, histories: Histories) -> JsonObject:
        family, m = self.family, self.manifest
        optimal = random = None
        if family is not None:
            tasks = tasks_of(family, histories.tasks)
            optimal, random = family.optimal_return(tasks), family.random_return(tasks)
        return history_returns.of_chunk(histories.transition, m.source["actors"], m.episode_length, optimal, random)

    def _seen(self, url: Url, finished: list[int]) -> dict[bytes, int]:
        """Return the contents of the histories that are there already, by number."""
        seen: dict[bytes, int] = {}
        if finished and not self.allow_duplicates:
            store = open_store(url, allow_partial=True)
            for chunk in finished:
                for row, content in enumerate(_contents(store.read([chunk]).transition)):
                    seen.setdefault(content, self.manifest.rows(chunk)[0] + row)
        return seen


class _AnotherNumberError(ForeignHistoriesError):
    """More histories or fewer than were announced: nothing is wrong with those that are there."""


COUNT = "Give their number as count"
UNKNOWN = "not known"  # `Origin.termination` where every end of an episode stands as truncated


def _contents(t: Transition) -> Iterator[bytes]:
    """Yield what tells each history from others: all actions and rewards, and observations here and there."""
    for observation, action, reward in zip(t.observation, t.action, t.reward, strict=True):
        digest = hashlib.blake2b(np.ascontiguousarray(observation[::SPARSE]).tobytes(), digest_size=16)
        digest.update(np.ascontiguousarray(action).data)
        digest.update(np.ascontiguousarray(reward).data)
        yield digest.digest()


def _longest(history: History) -> int:
    """Return the steps of the longest episode, the last one that does not end included."""
    shape, given = (len(history.reward),), [history.terminated, history.truncated]
    flags = [foreign.column(x, shape, np.dtype(bool), "history 0: its ends") for x in given if x is not None]
    done = np.logical_or.reduce(flags) if flags else np.zeros(shape, bool)
    foreign.check_episodes(done, "history 0", None)
    ends = np.flatnonzero(done) + 1
    return int(np.diff(np.concatenate([[0], ends, shape])).max())


def _forget(url: Url) -> None:
    """Delete a collection whose input cannot be: nothing of it is to be taken for histories."""
    store = connect(url)
    with named(f"deleting what was written to {url}"):
        store.delete_range(ts.KvStore.KeyRange()).result()
