"""Learning histories on the devices, and training windows drawn from them inside the jitted step.

Histories are dealt round-robin into G groups; groups are split over the mesh's batch axes, and row b of a batch is
drawn from group `b // (B / G)` by the device that holds it. So sampling moves nothing between devices, and a batch
depends on (seed, step) alone, not on how many devices there are. A window is `(history, start)`: it cannot cross
histories.

Episode subsampling (keep every k-th, Laskin et al. 2022, section 4) happens on load. A history has k such thinned
versions, one for each first episode ("phase"); by default one is kept, with `phases=k` all are, and no data is lost.
With `tail` below 1 the histories' beginnings are left out: what is then distilled is the expert at their end, and not
how it came to be (expert distillation, the baseline ED of Laskin et al. 2022, section 4). With `labels="optimal"` the
targets are not the source's actions but the family's optimal ones, which `load` is given; the context still holds what
the source did (the baseline DPT: Lee et al. 2023, arXiv 2306.14892). With `best` below 1 only those of a task's
histories are kept that end best, for sources some of whose learners fail (after LHF, Chen et al. 2025, which samples
histories by how much and how steadily they improve; here the worst are left out).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ad_jax import values
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.reward_unit import check_unit
from ad_jax.sharding import BATCH, batch_devices, on_batch, put, replicated
from ad_jax.types import Array, Batch, Histories, Spec, Steps, narrowest


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
    labels: Literal["source", "optimal"] = "source"  # whose actions are the targets
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
    label: Array | None = None  # [G, M, 1 + T], the targets where they are not the actions

    period = 0  # updates for which these are the residents; 0 is always

    def at(self, _: int) -> "Replay":
        """The residents that the update after any step learns from: these."""
        return self

    def facts(self) -> dict[str, float]:
        """Nothing was waited for."""
        return {}


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
    relabel: Callable[[Histories], np.ndarray] | None = None,
) -> Replay:
    """Thin `histories` and put them on the devices of `mesh`; each process puts the groups of its own devices there.

    Args:
        relabel: gives the optimal action at each step, `[H, T]`; called where `config.labels` asks for that.

    Raises:
        ConfigError: if a thinned history is shorter than a window, or there are fewer histories than groups, or
            labels are asked for that nobody can give.
        HistoryError: if a reward or an observation is not finite, or an action or observation is not of `spec`.
    """
    config.validate(batch_devices(mesh))
    check_values(histories, spec)
    t = histories.transition
    earned = (
        np.zeros(len(t.reward)) if config.best is None else at_the_end(t.reward, np.asarray(t.terminated | t.truncated))
    )
    kept = select(earned, histories.task_ids, config)
    rows = rows_of(take(histories, kept), kept, spec, config, relabel)
    count = len(rows["length"])
    check_lengths(rows["length"], config)
    arrays = {name: deal(x, config.groups) for name, x in rows.items()}
    replay = Replay(
        count=np.array([len(range(g, count, config.groups)) for g in range(config.groups)], np.int32),
        group=np.arange(config.groups, dtype=np.int32),
        **arrays,
    )
    return put(replay, on_batch(mesh))


def sample(
    replay: Replay,
    key: jax.Array,
    spec: Spec,
    config: Config,
    mesh: Mesh,
    render: Callable[[Array], Array] = lambda observation: observation,
) -> Batch:
    """Draw a batch of windows `[B, L]`, each device from its own groups. The key is consumed.

    Args:
        spec: of the observations as they are stored.
        render: what the model sees of one of them; the batch holds that.
    """
    shared, split = PartitionSpec(), PartitionSpec(BATCH)
    rows = config.batch // config.groups
    draw = jax.vmap(lambda r, key: _sample_group(r, key, spec, rows, config.segment, render), (0, None))
    windows = jax.shard_map(draw, mesh=mesh, in_specs=(split, shared), out_specs=split, check_vma=False)(replay, key)
    return jax.tree.map(lambda x: x.reshape(config.batch, *x.shape[2:]), windows)


def rows_of(
    histories: Histories,
    numbers: np.ndarray,
    spec: Spec,
    config: Config,
    relabel: Callable[[Histories], np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """What is trained on of `histories`, of which `numbers [H]` are the numbers: fields of `Replay` by name.

    Returns:
        Arrays `[H * phases, 1 + T', ...]`, and `length` and `history` `[H * phases]`.

    Raises:
        ConfigError: if labels are asked for that nobody can give.
    """
    label = None
    if config.labels == "optimal":
        if relabel is None:
            raise ConfigError('replay.labels="optimal" needs to be told the optimal actions; give `load` a `relabel`')
        label = relabel(histories)
    arrays, length = thin(histories, config, label)
    none = {"action": spec.num_actions, "reward": 0, "done": False, "observation": 0, "label": 0}
    arrays["action"] = arrays["action"].astype(narrowest(spec.num_actions))  # has to hold "none" as well
    shifted = {name: _prepend(x, none[name]) for name, x in arrays.items()}
    return shifted | {"length": length, "history": np.tile(numbers.astype(np.int32), config.phases)}


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


def thin(
    histories: Histories, config: Config, label: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Keep every k-th episode of each history, in each of the phases asked for, with the labels `[H, T]` if any.

    Returns:
        Arrays by name, `[H * phases, T', ...]`, valid up to `length [H * phases]` int32 and arbitrary after it.
    """
    t = histories.transition
    done = np.asarray(t.terminated) | np.asarray(t.truncated)
    arrays = {"observation": t.observation, "action": t.action, "reward": t.reward, "done": done}
    if label is not None:
        arrays["label"] = label
    masks = kept_steps(done, config)
    longest = max(int(kept.sum(1).max()) for kept in masks)
    orders = [np.argsort(~kept, axis=1, kind="stable")[:, :longest] for kept in masks]

    def gather(x):
        at = lambda order: np.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)
        return np.concatenate([at(order) for order in orders])

    return {name: gather(np.asarray(x)) for name, x in arrays.items()}, lengths(done, config)


def lengths(done: np.ndarray, config: Config) -> np.ndarray:
    """Steps that thinning keeps of histories whose episodes end at `done [H, T]`: `[H * phases]` int32."""
    return np.concatenate([kept.sum(1).astype(np.int32) for kept in kept_steps(done, config)])


def kept_steps(done: np.ndarray, config: Config) -> list[np.ndarray]:
    """Which steps thinning keeps, `[H, T]` bool, a mask for each phase."""
    episode = np.cumsum(done, axis=1) - done  # [H, T], which episode each step belongs to
    before = done[:, : config.first_step(done.shape[1])].sum(1, keepdims=True)  # episodes that end before the tail
    in_tail = episode >= before
    # Counted from the end of each group of k, so that phase 0 holds the last episode, the one learned best, where a
    # history has a multiple of k.
    offsets = [config.keep_every - 1 - phase * config.keep_every // config.phases for phase in range(config.phases)]
    return [in_tail & (episode % config.keep_every == offset) for offset in offsets]


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


def _sample_group(replay: Replay, key: jax.Array, spec: Spec, rows: int, segment: int, render: Callable) -> Batch:
    """`rows` windows from one group: `replay` without its G axis."""
    history, start = _draw(replay, key, rows, segment)

    def window(x):
        cut = lambda h, s: jax.lax.dynamic_slice_in_dim(x[h], s, segment + 1)
        return jax.vmap(cut)(history, start)

    see = jax.vmap(jax.vmap(render))
    action = window(replay.action).astype(jnp.int32)
    steps = Steps(
        see(window(replay.observation)[:, 1:].astype(spec.compute_dtype)),
        action[:, :-1],
        window(replay.reward)[:, :-1].astype(jnp.float32),
        window(replay.done)[:, :-1],
    )
    target = action if replay.label is None else window(replay.label).astype(jnp.int32)
    return Batch(steps, target[:, 1:])


def _prepend(x: np.ndarray, value: Any) -> np.ndarray:
    """`[H, T, ...]` with one step of `value` before it."""
    return np.concatenate([np.full_like(x[:, :1], value), x], axis=1)


def deal(x: np.ndarray, groups: int) -> np.ndarray:
    """`[H, ...]` dealt round-robin into `[G, M, ...]`, padded with zeros."""
    each = -(-len(x) // groups)
    padded = np.concatenate([x, np.zeros((each * groups - len(x), *x.shape[1:]), x.dtype)])
    return np.ascontiguousarray(padded.reshape(each, groups, *x.shape[1:]).swapaxes(0, 1))
