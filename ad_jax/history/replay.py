"""Learning histories on the devices, and training windows drawn from them inside the jitted step.

Histories are dealt round-robin into G groups; groups are split over the mesh's batch axes, and row b of a batch is
drawn from group `b // (B / G)` by the device that holds it. So sampling moves nothing between devices, and a batch
depends on (seed, step) alone, not on how many devices there are. A window is `(history, start)`: it cannot cross
histories.

Episode subsampling (keep every k-th, Laskin et al. 2022, section 4) happens on load. A history has k such thinned
versions, one for each first episode ("phase"); by default one is kept, with `phases=k` all are, and no data is lost.
With `tail` below 1 the histories' beginnings are left out: what is then distilled is the expert at their end, and not
how it came to be (expert distillation, the baseline ED of Laskin et al. 2022, section 4). With `best` below 1 only
those of a task's histories are kept that end best, for sources some of whose learners fail (after LHF, Chen et al.
2025, which samples histories by how much and how steadily they improve; here the worst are left out).

A method may prepare more channels of the steps (`Prepare`), inputs or targets. They are made on the host, once for each
history, and then go where the others go; nothing here knows their names.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ad_jax import values
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.history.reward_unit import check_unit
from ad_jax.history.subsample import ENDS, Collected, Thinned, Whole, lengths, thin
from ad_jax.sharding import BATCH, batch_devices, on_batch, put, replicated
from ad_jax.types import Array, Batch, Histories, Spec, Steps

Prepare = Callable[[Histories], dict[str, np.ndarray]]  # histories [H, T] -> channels of a method, each [H, T, ...]
__all__ = ["Config", "Replay", "RotationConfig", "gather", "lengths", "load", "sample", "thin"]


@dataclasses.dataclass(frozen=True)
class RotationConfig:
    """How the histories of a collection that is larger than the devices' memory take turns there (`rotation`)."""

    resident: int  # histories on the devices at a time, over all of them; each thinned version counts
    parts: int = 8  # the residents are exchanged one such part at a time
    every: int = 50  # updates from one exchange to the next
    # Pieces of each chunk, resident apart: more tasks at a time, for as many readings of the chunk on the way round.
    spread: int | None = (
        None  # None: as many as the collection is larger than the residents; they are of all tasks then
    )

    def validate(self, groups: int) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("parts", "every", "spread"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"replay.rotation.{name} must be at least 1; got {getattr(self, name)}")
        if self.resident < 1 or self.resident % (groups * self.parts):
            raise ConfigError(
                "replay.rotation.resident must be a positive multiple of replay.groups x replay.rotation.parts = "
                f"{groups} x {self.parts}; got {self.resident}. The nearest is {self.fitted(groups).resident}"
            )

    def fitted(self, groups: int) -> "RotationConfig":
        """With the nearest number of residents that so many groups can share."""
        whole = groups * self.parts
        return dataclasses.replace(self, resident=max(1, round(self.resident / whole)) * whole)


@dataclasses.dataclass(frozen=True)
class Config:
    """What of the histories is trained on."""

    tail: float = 1.0  # share of each history's steps that is kept, its end; a small one is expert distillation
    keep_every: int = 1  # k: keep every k-th episode
    phases: int = 1  # how many of the k thinned versions of each history are kept
    segment: int = 160  # L, steps in a training window
    batch: int = 64  # B, windows in an update
    best: float | None = None  # share of each task's histories that is kept, those that end best; None is all
    # What the model's rewards are divided by; None: the size of the rewards of these histories; 1: as they are.
    reward_unit: float | None = None
    groups: int = 8  # G; must be a multiple of the devices that split the batch, and divide the batch
    rotation: RotationConfig | None = None  # None: all histories are on the devices at once

    def validate(self, split: int = 1) -> None:
        """Raises ConfigError where sizes do not fit each other, or a mesh that splits batches `split` ways."""
        if self.keep_every < 1 or not 1 <= self.phases <= self.keep_every:
            raise ConfigError(
                "replay needs keep_every >= 1 and 1 <= phases <= keep_every; "
                f"got keep_every={self.keep_every}, phases={self.phases}"
            )
        if not 0 < self.tail <= 1:
            raise ConfigError(f"replay.tail is a share of each history, above 0 and at most 1; got {self.tail}")
        if self.best is not None and not 0 < self.best <= 1:
            raise ConfigError(
                f"replay.best is a share of each task's histories, above 0 and at most 1; got {self.best}"
            )
        check_unit("replay", self.reward_unit)
        if self.segment < 1 or self.batch < 1 or self.groups < 1 or self.batch % self.groups:
            raise ConfigError(
                f"replay.batch must be a positive multiple of replay.groups; "
                f"got batch={self.batch}, groups={self.groups}, segment={self.segment}"
            )
        if self.groups % split:
            raise ConfigError(
                f"replay.groups={self.groups} cannot be split over {split} devices (mesh data x fsdp); "
                f"set replay.groups to a multiple of {split}, or train on fewer devices: "
                f"mesh.data={math.gcd(self.groups, split)} mesh.fsdp=1"
            )
        if self.rotation is not None:
            self.rotation.validate(self.groups)

    def first_step(self, steps: int) -> int:
        """Of a history of `steps`, the first that belongs to the tail: kept are the episodes that end in it, whole."""
        return min(math.floor((1 - self.tail) * steps + 1e-9), steps - 1)

    def kept_of(self, histories: int) -> int:
        """How many of a task's histories are kept: at least one."""
        return math.ceil((self.best or 1.0) * histories - 1e-9)


class Replay(struct.PyTreeNode):
    """Resident histories. Time is shifted by one: index 0 is the "none" step before the first."""

    observation: Array  # [G, M, 1 + T, *O]
    action: Array  # [G, M, 1 + T]
    reward: Array  # [G, M, 1 + T]
    done: Array  # [G, M, 1 + T] bool
    length: Array  # [G, M] int32, steps of each history; 0 for padding
    history: Array  # [G, M] int32, its number among those that were loaded; thinned versions share it
    count: Array  # [G] int32, histories in each group
    group: Array  # [G] int32, 0..G-1
    extra: dict[str, Array] = dataclasses.field(default_factory=dict)  # channels of a method, each [G, M, 1 + T, ...]

    period = 0  # updates for which these are the residents; 0 is always

    def at(self, _: int) -> "Replay":
        """The residents that the update after any step learns from: these."""
        return self

    def facts(self) -> dict[str, float]:
        """Nothing was waited for."""
        return {}

    def fields(self) -> dict[str, Array]:
        """Every array by its name, those of a method among them."""
        return {name: value for name, value in vars(self).items() if name != "extra"} | self.extra

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Replay":
        """Inverse of `fields`."""
        own = {field.name for field in dataclasses.fields(cls)}
        extra = {name: value for name, value in fields.items() if name not in own}
        return cls(extra=extra, **{name: value for name, value in fields.items() if name in own})


class Residents(Protocol):
    """What training reads histories from: a `Replay`, or a `rotation.Rotation` of more than the devices hold."""

    @property
    def period(self) -> int:
        """Updates for which the residents stay the same, from one multiple of it to the next; 0 is always."""
        ...

    def at(self, step: int, /) -> Replay:
        """The residents of the update after `step`; what was returned before is gone."""
        ...

    def facts(self) -> dict[str, float]:
        """What is known of the waiting for histories, for the run's record."""
        ...


def load(
    histories: Histories,
    spec: Spec,
    config: Config,
    mesh: Mesh,
    prepare: Prepare | None = None,
) -> Replay:
    """Thin `histories` and put them on the devices of `mesh`; each process puts the groups of its own devices there.

    Args:
        prepare: gives more channels of the steps.

    Raises:
        ConfigError: if a thinned history is shorter than a window, or there are fewer histories than groups, or a
            channel has the name of another or is not as long as the histories.
        HistoryError: if a reward or an observation is not finite, or an action or observation is not of `spec`.
    """
    config.validate(batch_devices(mesh))
    return put_there(gather(Whole(histories), spec, config, prepare), mesh)


def gather(
    collected: Collected,
    spec: Spec,
    config: Config,
    prepare: Prepare | None = None,
) -> dict[str, np.ndarray]:
    """Thin a collection chunk by chunk: the fields of its `Replay` by name, in host memory, each there once.

    Raises:
        ConfigError, HistoryError: as `load`, and where a chunk is damaged.
    """
    length, earned = [], []
    for chunk in collected.chunks:
        found = collected.fields([chunk], ENDS if config.best is None else (*ENDS, "reward"))
        done = found["terminated"] | found["truncated"]
        length.append(lengths(done, config).reshape(config.phases, -1))
        earned.append(np.zeros(len(done)) if config.best is None else at_the_end(found["reward"], done))
    kept = select(np.concatenate(earned), collected.task_ids, config)
    of_kept = np.concatenate(length, axis=1)[:, kept].reshape(-1)
    check_lengths(of_kept, config)
    thinned, first = Thinned(of_kept, spec.num_actions, config, config.groups), 0
    for chunk, size in zip(collected.chunks, map(len, earned), strict=True):
        histories, numbers = collected.read([chunk]), np.arange(first, first + size)
        check_values(histories, spec, numbers)
        place, end = np.searchsorted(kept, (first, first + size))  # of these among those that are kept
        rows, first = kept[place:end], first + size
        if len(rows):
            histories = take(histories, rows - numbers[0])
            thinned.add(int(place), histories, rows, prepared(histories, prepare))
        del histories  # before the next chunk is read
    count, groups = len(of_kept), range(config.groups)
    counts = np.array([len(range(g, count, config.groups)) for g in groups], np.int32)
    return thinned.arrays | {"count": counts, "group": np.array(groups, np.int32)}


def put_there(fields: dict[str, np.ndarray], mesh: Mesh) -> Replay:
    """What `gather` gave, on the devices of `mesh`; taken out of `fields`, so that no two copies stay."""
    there = {}
    while fields:
        name, array = fields.popitem()
        there[name] = jax.block_until_ready(put(array, on_batch(mesh)))
    return Replay.of(there)


def sample(
    replay: Replay,
    key: jax.Array,
    spec: Spec,
    config: Config,
    mesh: Mesh,
    render: Callable[[Array], Array] = lambda observation: observation,
    inputs: Collection[str] = (),
) -> Batch:
    """Draw a batch of windows `[B, L]`, each device from its own groups. The key is consumed.

    Args:
        spec: of the observations as they are stored.
        render: what the model sees of one of them; the batch holds that.
        inputs: which of the method's channels go to the model; the others are targets.
    """
    shared, split = PartitionSpec(), PartitionSpec(BATCH)
    rows = config.batch // config.groups
    draw = jax.vmap(lambda r, key: _sample_group(r, key, spec, rows, config.segment, render, inputs), (0, None))
    windows = jax.shard_map(draw, mesh=mesh, in_specs=(split, shared), out_specs=split, check_vma=False)(replay, key)
    return jax.tree.map(lambda x: x.reshape(config.batch, *x.shape[2:]), windows)


def rows_of(
    histories: Histories,
    numbers: np.ndarray,
    spec: Spec,
    config: Config,
    prepare: Prepare | None,
) -> dict[str, np.ndarray]:
    """What is trained on of `histories`, of which `numbers [H]` are the numbers: fields of `Replay` by name.

    Returns:
        Arrays `[H * phases, 1 + T', ...]`, and `length` and `history` `[H * phases]`.

    Raises:
        ConfigError: for channels that cannot be, see `prepared`.
    """
    thinned = Thinned(lengths(histories.transition.done, config), spec.num_actions, config, groups=1)
    thinned.add(0, histories, numbers, prepared(histories, prepare))
    return {name: x[0] for name, x in thinned.arrays.items()}


def prepared(histories: Histories, prepare: Prepare | None) -> dict[str, np.ndarray]:
    """Return the channels that `prepare` makes of `histories`, `[H, T, ...]` by name; none where it is None.

    Raises:
        ConfigError: for a channel that has another's name, or is not of every step of every history.
    """
    channels = {} if prepare is None else {name: np.asarray(x) for name, x in prepare(histories).items()}
    own, expected = {field.name for field in dataclasses.fields(Replay)}, histories.transition.action.shape
    for name, x in channels.items():
        if name in own:
            raise ConfigError(f"a method prepares a channel {name!r}, which histories have already: call it otherwise")
        if x.shape[:2] != expected:
            raise ConfigError(
                f"the channel {name!r} that a method prepares must be of every step, [H, T, ...] = {expected}; got "
                f"{x.shape}"
            )
    return channels


def check_values(histories: Histories, spec: Spec, numbers: np.ndarray | None = None) -> None:
    """Raises HistoryError, which names the history by `numbers [H]`, for what is no number or not of `spec`."""
    if where := values.wrong(histories, spec, numbers):
        raise HistoryError(f"{where}: nothing can be learned from it. Collect these histories anew")


def check_lengths(length: np.ndarray, config: Config) -> None:
    """Raises ConfigError where thinned histories of so many steps `[H]` are too short for a window, or too few."""
    shortest = int(length.min())
    if shortest < config.segment:
        raise ConfigError(
            f"replay.segment={config.segment} steps is longer than a history: after keeping every "
            f"{config.keep_every}th episode of the last {config.tail:.0%} the shortest has {shortest}. Lower "
            "replay.segment or replay.keep_every, raise replay.tail, or collect longer histories"
        )
    if len(length) < config.groups:
        raise ConfigError(f"{len(length)} histories cannot fill replay.groups={config.groups}; lower replay.groups")


def at_the_end(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Mean return of the episodes that end in the last tenth of histories: `[H]` float64 of `[H, T]`.

    Where none ends there, of the last one that ended; where none ever did, of what was earned until then.
    """
    border = reward.shape[1] - max(1, reward.shape[1] // 10)

    def of_history(reward: np.ndarray, done: np.ndarray) -> float:
        ends = np.flatnonzero(done) + 1
        if not len(ends):
            return reward.sum(dtype=np.float64)
        late = max(int((ends > border).sum()), 1)
        began = ends[-late - 1] if late < len(ends) else 0
        return reward[began : ends[-1]].sum(dtype=np.float64) / late

    return np.array([of_history(*rows) for rows in zip(np.asarray(reward), np.asarray(done), strict=True)])


def select(earned: np.ndarray, task_ids: Sequence[str], config: Config) -> np.ndarray:
    """The numbers of each task's histories that earn most at their end, as many as `config.best` keeps; ascending."""
    if config.best is None:
        return np.arange(len(earned))
    rows_of: dict[str, list[int]] = {}
    for row, task in enumerate(task_ids):
        rows_of.setdefault(task, []).append(row)
    best_of = lambda rows: sorted(rows, key=lambda row: -earned[row])[: config.kept_of(len(rows))]
    return np.array(sorted(row for rows in rows_of.values() for row in best_of(rows)))


def take(histories: Histories, rows: np.ndarray) -> Histories:
    """Some of the histories, in the order given."""
    if len(rows) == len(histories.task_ids) and (rows == np.arange(len(rows))).all():
        return histories  # nothing is copied
    h, at = histories, lambda tree: jax.tree.map(lambda x: np.asarray(x)[rows], tree)
    ids = [h.task_ids[row] for row in rows]
    return Histories(at(h.transition), at(h.tasks), ids, at(h.seed_index), at(h.actor))


def drawn(replay: Replay, key: jax.Array, config: Config, mesh: Mesh) -> np.ndarray:
    """Numbers of the histories that `sample` draws from with the same key, `[B]` int32, for errors that name them."""
    rows = config.batch // config.groups
    draw = jax.vmap(lambda r: r.history[_draw(r, key, rows, config.segment)[0]])
    return np.asarray(jax.jit(draw, out_shardings=replicated(mesh))(replay)).reshape(-1)


def _draw(replay: Replay, key: jax.Array, rows: int, segment: int) -> tuple[jax.Array, jax.Array]:
    """Rows of one group, and where their windows begin, `[rows]` each. The key is consumed."""
    key_history, key_start = jax.random.split(jax.random.fold_in(key, replay.group))
    history = jax.random.randint(key_history, (rows,), 0, replay.count, jnp.int32)
    return history, jax.random.randint(key_start, (rows,), 0, replay.length[history] - segment + 1, jnp.int32)


def _sample_group(
    replay: Replay, key: jax.Array, spec: Spec, rows: int, segment: int, render: Callable, inputs: Collection[str]
) -> Batch:
    """`rows` windows from one group: `replay` without its G axis."""
    history, start = _draw(replay, key, rows, segment)

    def window(x):
        cut = lambda h, s: jax.lax.dynamic_slice_in_dim(x[h], s, segment + 1)
        return jax.vmap(cut)(history, start)

    see = jax.vmap(jax.vmap(render))
    action = window(replay.action).astype(jnp.int32)
    extra = {name: _computed(window(x)[:, 1:]) for name, x in replay.extra.items()}
    steps = Steps(
        observation=see(window(replay.observation)[:, 1:].astype(spec.compute_dtype)),
        prev_action=action[:, :-1],
        prev_reward=window(replay.reward)[:, :-1].astype(jnp.float32),
        prev_done=window(replay.done)[:, :-1],
        extra={name: x.astype(jnp.float32) for name, x in extra.items() if name in inputs},
    )
    return Batch(steps, {"action": action[:, 1:]} | {name: x for name, x in extra.items() if name not in inputs})


def _computed(x: jax.Array) -> jax.Array:
    """A channel in the dtype that programs compute in: bool, int32 or float32."""
    if x.dtype == jnp.bool_:
        return x
    return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)
