"""Stage 1: thousands of source learners, each on its own task, side by side; every step of every lifetime is kept.

Input: a source, a family and its training tasks. Output: a collection of learning histories on disk. Learners run in
chunks of one size, so memory is bounded by `chunk_learners`; a chunk is written while the next one computes. A
learner's randomness is keyed by (seed, task id, seed index), so a history does not depend on the chunking. Several
processes deal the chunks among themselves; each runs its own on its own devices and writes them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily, spec_of, take
from ad_jax.envs.leaves import task_leaves
from ad_jax.errors import AdJaxError, ConfigError, HistoryError
from ad_jax.history import lifetimes
from ad_jax.history import returns as history_returns
from ad_jax.history.store import HistoryWriter, Manifest, open_store
from ad_jax.keys import task_keys
from ad_jax.process import distributed
from ad_jax.process.metrics import MetricsLog, Progress
from ad_jax.sharding import batch_devices, on_batch
from ad_jax.sources.base import Source
from ad_jax.sources.gives import check_gives
from ad_jax.stage.blocks import blocks_of
from ad_jax.types import Histories, PyTree, Transition


@dataclasses.dataclass(frozen=True)
class Config:
    """How much is collected."""

    seeds: int = 8  # learners per task
    episodes: int = 400  # episodes in a history, where all have full length; else this many times the episode length
    chunk_learners: int = 256  # learners at once: bounds memory
    # Whether what each action led to is stored, too: the last observation of an episode, which a reset replaces in the
    # next step's `observation`, is then not lost. A method whose `needs` name it asks for it.
    next_observation: bool = False
    # Whether what the source held of each action is stored, too, values or logits, float32 `[A]` a step.
    preferences: bool | None = None  # None: no
    # How many numbers of each step are stored, too, float32, that the last layer of the source's network saw when it
    # acted: as many as that network's last hidden layer has.
    features: int | None = None  # None: none

    def validate(self) -> None:
        """Raise ConfigError where a number cannot be meant."""
        for name in ("seeds", "episodes", "chunk_learners", "features"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"collect.{name} must be at least 1; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Result:
    """What collecting reports: seconds without compilation."""

    env_steps: int
    seconds: float
    compile_seconds: float


class Lifetimes(NamedTuple):
    """What C learners lived through, and the first that cannot be of each actor."""

    transition: Transition  # [C, actors, T, ...] in the narrowest dtypes that hold what the family states
    first: values.First  # [C, actors]


class Collector:
    """`lifetimes(keys [C], tasks [C]) -> Lifetimes`, compiled once for chunks of C learners."""

    def __init__(
        self,
        family: TaskFamily,
        source: Source,
        episodes: int,
        mesh: Mesh,
        chunk: int,
        next_observation: bool = False,
        preferences: bool = False,
        features: int | None = None,
    ):
        """Prepare learners of `source`, each for `episodes` episodes of full length.

        Args:
            family: whose tasks are learned.
            source: the learning algorithm.
            episodes: of full length in a learner's lifetime.
            mesh: whose batch axes split the learners.
            chunk: C, learners at once; padded to a multiple of the devices that split them, and of each one's blocks.
            next_observation: whether the transitions hold it.
            preferences: whether they hold those.
            features: how many of them they hold; None for none.

        Raises:
            ConfigError: if one is asked for, and the source does not give it.
        """
        self.family, self.source, self.mesh = family, source, mesh
        self.next_observation, self.preferences, self.features = next_observation, preferences, features
        check_gives(source, family, {"next_observation": next_observation, "preferences": preferences}, features)
        self.updates = lifetime_updates(source, family, episodes)
        self.steps = self.updates * source.steps_per_update
        split = batch_devices(mesh)
        self.blocks = blocks_of(source, family, -(-chunk // split), mesh)
        self.chunk, self.padded = chunk, -(-chunk // (split * self.blocks)) * split * self.blocks
        rows = on_batch(mesh)
        self.jitted = jax.jit(self._all, in_shardings=(rows, rows), out_shardings=rows)
        self.lifetimes: Callable[[jax.Array, PyTree], Lifetimes] = self.jitted

    @classmethod
    def of(cls, family: TaskFamily, source: Source, config: Config, mesh: Mesh) -> "Collector":
        """Return the collector of what a config asks for; raises as making one does."""
        stored = {"next_observation": config.next_observation, "preferences": bool(config.preferences)}
        return cls(family, source, config.episodes, mesh, config.chunk_learners, **stored, features=config.features)

    def _all(self, keys: jax.Array, tasks: PyTree) -> Lifetimes:
        """All learners of a chunk, each device's block by block; `[C, actors, T]`."""
        live = jax.vmap(self._lifetime)
        if self.blocks == 1:
            return live(keys, tasks)

        def of_device(keys: jax.Array, tasks: PyTree) -> Lifetimes:
            each = len(keys) // self.blocks
            blocks = jax.tree.map(lambda x: x.reshape(self.blocks, each, *x.shape[1:]), (keys, tasks))
            lived = jax.lax.map(lambda block: live(*block), blocks)
            return jax.tree.map(lambda x: x.reshape(self.blocks * each, *x.shape[2:]), lived)

        # Over the devices first: a loop over rows that lie on several would send them around.
        rows = on_batch(self.mesh).spec
        return jax.shard_map(of_device, mesh=self.mesh, in_specs=rows, out_specs=rows, check_vma=False)(keys, tasks)

    def _lifetime(self, key: jax.Array, task: PyTree) -> Lifetimes:
        """One learner from birth to end: `[actors, T, ...]`."""
        family, spec = self.family, spec_of(self.family)
        state = self.source.init(jax.random.fold_in(key, 2**31), task)
        each = self.source.steps_per_update

        def narrow(t):
            def small(x):
                return x.astype(spec.observation_dtype)

            return t.replace(
                observation=small(t.observation),
                action=t.action.astype(spec.action_dtype),
                reward=t.reward.astype(family.reward_dtype),
                next_observation=small(t.next_observation) if self.next_observation else None,
                preferences=t.preferences if self.preferences else None,
                features=None if self.features is None else t.features,
            )

        def update(carry, index):
            state, first = carry
            state, transitions = self.source.update(jax.random.fold_in(key, index), state, task)
            # Before they are narrowed, which would make another value of one that is too large.
            first = values.look_through(spec, family.reward_dtype, first, index * each, transitions)
            if self.next_observation:  # the last of an episode is nowhere else
                reached = transitions.replace(observation=transitions.next_observation)
                first = values.look_through(spec, family.reward_dtype, first, index * each, reached)
            return (state, first), narrow(transitions)

        start = state, values.nothing((self.source.actors,))
        (_, first), lifetime = jax.lax.scan(update, start, jnp.arange(self.updates, dtype=jnp.int32))
        return Lifetimes(
            jax.tree.map(lambda x: jnp.moveaxis(x.reshape(self.steps, *x.shape[2:]), 1, 0), lifetime), first
        )

    def run(self, seed: int, tasks: PyTree, task_ids: Sequence[str], seeds: int, first: int) -> Lifetimes:
        """Dispatch a chunk's learners, from `first` of tasks x seeds (task-major) on; the last one's copies pad it."""
        last = min(first + self.chunk, len(task_ids) * seeds) - 1
        learner = np.minimum(np.arange(first, first + self.padded), last)
        return self.lifetimes(*self._inputs(seed, tasks, task_ids, seeds, learner))

    def compile(self, seed: int, tasks: PyTree, task_ids: Sequence[str], seeds: int) -> float:
        """Compile now; returns the seconds it took."""
        started = time.monotonic()
        inputs = self._inputs(seed, tasks, task_ids, seeds, np.zeros(self.padded, int))
        self.lifetimes = self.jitted.lower(*inputs).compile()
        return time.monotonic() - started

    def _inputs(
        self, seed: int, tasks: PyTree, task_ids: Sequence[str], seeds: int, learner: np.ndarray
    ) -> tuple[jax.Array, PyTree]:
        """Keys and tasks of `learner [C]`, on the devices."""
        inputs = task_keys(seed, "collect", task_ids, learner, seeds), take(tasks, learner // seeds)
        return jax.tree.map(lambda x: jax.device_put(x, on_batch(self.mesh)), inputs)


def lifetime_updates(source: Source, family: TaskFamily, episodes: int) -> int:
    """Return the updates of a lifetime: as many as `episodes` episodes of full length take."""
    return -(-episodes * family.episode_length // source.steps_per_update)


def collect(
    collector: Collector,
    tasks: PyTree,
    task_ids: Sequence[str],
    config: Config,
    seed: int,
    url: str,
    manifest: Manifest,
    log: MetricsLog,
    progress_seconds: float = 5.0,
) -> Result:
    """Collect what `manifest` describes into `url`; chunks already there are kept.

    Of several processes each collects its share and returns once all have theirs, with the steps of all and the
    seconds of the slowest.

    Args:
        collector: on this process's own devices.
        tasks: the training tasks, batched, `[N]`.
        task_ids: ids of the tasks, N of them.
        config: its `seeds` are the learners per task.
        seed: with task id and learner index, determines every random number.
        url: of the collection, where chunks are written.
        manifest: what the collection holds.
        log: takes a record of each chunk.
        progress_seconds: at most one progress line in so many seconds.

    Raises:
        HistoryError: if `url` holds something else or cannot be written, or an observation, action or reward is not
            finite or not what the family states, on any process.
    """
    opened = functools.partial(HistoryWriter.open, url, manifest)
    if distributed.count() > 1:
        distributed.on_first(lambda: opened().manifest.chunks)  # one creates what all then continue
    writer = distributed.together(opened)  # nobody writes before all have looked
    finished = distributed.on_first(lambda: sorted(writer.finished))
    share = functools.partial(_share, collector, tasks, task_ids, config, seed, log, progress_seconds)
    results = distributed.everywhere(lambda: dataclasses.astuple(share(writer, frozenset(finished))))
    if finished or distributed.count() > 1:  # then others collected what this process's log lacks
        distributed.on_first(lambda: log.complete("collect", _records(url)))
    env_steps, seconds, compile_seconds = zip(*results)
    return Result(sum(env_steps), max(seconds), max(compile_seconds))


def _share(
    collector: Collector,
    tasks: PyTree,
    task_ids: Sequence[str],
    config: Config,
    seed: int,
    log: MetricsLog,
    progress_seconds: float,
    writer: HistoryWriter,
    finished: frozenset[int],
) -> Result:
    """Collect this process's share of the chunks that are not finished."""
    total = len(task_ids) * config.seeds
    family, actors = collector.family, collector.source.actors
    steps_each = collector.steps * actors
    with writer:
        left = [c for c in range(-(-total // collector.chunk)) if c not in finished]
        todo = left[distributed.index() :: distributed.count()]
        log.forget_after("collect", max(finished, default=-1))

        def learners_in(chunks):
            return sum(min(collector.chunk, total - c * collector.chunk) for c in chunks)

        on_disk, others = total - learners_in(left), learners_in(left) - learners_in(todo)
        done, mine = on_disk, total - others
        progress = Progress("collect", mine, "learners", done, progress_seconds, steps_each)
        if done:
            progress.note(f"{done} of {total} learners are on disk already")
        if others:
            progress.note(f"{others} of {total} learners are left to the other processes")
        compile_seconds = collector.compile(seed, tasks, task_ids, config.seeds) if todo else 0.0
        progress.note(f"compiled in {compile_seconds:.1f} s")
        optimal, random = (family.optimal_return(tasks), family.random_return(tasks)) if todo else (None, None)
        started, first = time.monotonic(), done

        def run(chunk):
            return collector.run(seed, tasks, task_ids, config.seeds, chunk * collector.chunk)

        lived = (run(chunk) for chunk in todo)  # dispatched when asked for
        ahead = next(lived, None)
        for chunk in todo:
            # The device works on the next chunk while this one goes to disk.
            lifetime, ahead = cast(Lifetimes, ahead), next(lived, None)
            count, start = min(collector.chunk, total - chunk * collector.chunk), chunk * collector.chunk
            if where := beyond(collector, lifetime, task_ids, config.seeds, start, count):
                writer.flush()
                raise HistoryError(f"chunk {chunk}: {where} The chunk is not stored, those before it are")
            histories = as_histories(lifetime, tasks, task_ids, config.seeds, start, count)
            task = np.repeat(np.arange(start, start + count) // config.seeds, actors)  # of each row

            def of_rows(known, task=task):
                return None if known is None else known[task]

            earned = history_returns.of_chunk(
                histories.transition, actors, family.episode_length, of_rows(optimal), of_rows(random)
            )
            writer.write(chunk, histories, earned)
            done += count
            ends = _ends(earned)
            log.write("collect", chunk, {"learners": done} | ends)
            progress.update(done, **ends)
    return Result((done - first) * steps_each, time.monotonic() - started, compile_seconds)


def _ends(earned: history_returns.Chunk) -> dict[str, float]:
    """Return what a chunk's log tells of its source, where it is known."""
    tenths = history_returns.by_tenth(earned)
    return {f"return_{name}_tenth": x for name, x in (("first", tenths[0]), ("last", tenths[-1])) if x is not None}


def _records(url: str) -> dict[int, dict[str, float]]:
    """Return the log of all finished chunks, from the ledger, as one process would have written it in one go."""
    store, done, records = open_store(url, allow_partial=True), 0, {}
    for chunk in store.chunks:
        first, end = store.manifest.rows(chunk)
        done += (end - first) // store.manifest.source["actors"]
        earned = store.earned(chunk)
        records[chunk] = {"learners": done, **({} if earned is None else _ends(earned))}
    return records


def beyond(
    collector: Collector, lifetime: Lifetimes, task_ids: Sequence[str], seeds: int, first: int, count: int
) -> str | None:
    """Return in words the first value that cannot be, of `count` learners of a chunk from learner `first` on."""
    place = np.asarray(lifetime.first.place)[:count]
    if (place == values.NOTHING).all():
        return None
    learner, actor = map(int, np.argwhere(place != values.NOTHING)[0])
    found = jax.tree.map(lambda x: np.asarray(x)[learner, actor], lifetime.first)
    what, field = values.told(spec_of(collector.family), collector.family.reward_dtype, found)
    row, whose = learner * collector.source.actors + actor, first + learner
    return (
        f"{what}, at step {found.step} of its history {row} (task {task_ids[whose // seeds]}, seed {whose % seeds}, "
        f"actor {actor}), from task family {collector.family.name}. {values.REMEDY[field]}."
    )


def as_histories(
    lifetime: Lifetimes, tasks: PyTree, task_ids: Sequence[str], seeds: int, first: int, count: int
) -> Histories:
    """Return the first `count` learners of a chunk that starts at learner `first`, in host memory, one row an actor."""
    actors = lifetime.transition.action.shape[1]
    learner = np.repeat(np.arange(first, first + count), actors)
    rows = jax.tree.map(lambda x: np.asarray(x)[:count].reshape(count * actors, *x.shape[2:]), lifetime.transition)
    leaves = {name: np.asarray(leaf)[learner // seeds] for name, leaf in task_leaves(tasks).items()}
    return Histories(
        rows,
        leaves,
        [task_ids[int(i)] for i in learner // seeds],
        (learner % seeds).astype(np.int32),
        np.tile(np.arange(actors, dtype=np.int32), count),
    )


def learning_curve(
    collector: Collector,
    tasks: PyTree,
    task_ids: Sequence[str],
    seeds: int,
    seed: int,
    show: Callable[[int, np.ndarray], None] = lambda done, returns: None,
) -> lifetimes.Episodes:
    """Return the source itself on `tasks`: every episode of every actor, a stream each, `[N, seeds, actors]` in that
    order.

    `show(done, returns)` is called after each chunk: the learners done, and the curves over time of those of this
    chunk, `[C, pieces]`, mean over actors.

    Raises:
        AdJaxError: if an observation, action or reward is not finite or not what the family states.
    """
    total, found = len(task_ids) * seeds, lifetimes.Episodes([], [], collector.steps)
    for first in range(0, total, collector.chunk):
        lifetime = collector.run(seed, tasks, task_ids, seeds, first)
        count = min(collector.chunk, total - first)
        if where := beyond(collector, lifetime, task_ids, seeds, first, count):
            raise AdJaxError(f"the source itself, evaluated on the same tasks: {where}")
        t = as_histories(lifetime, tasks, task_ids, seeds, first, count).transition
        new = lifetimes.episodes_of(t.reward, t.done)
        found.returns.extend(new.returns)
        found.steps.extend(new.steps)
        curve = new.curve(collector.family.episode_length).reshape(count, collector.source.actors, -1)
        show(first + count, curve.mean(1))
    return found
