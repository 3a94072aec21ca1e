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
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ad_jax.errors import ConfigError, HistoryError
from ad_jax.sharding import BATCH, batch_devices, on_batch, put, replicated
from ad_jax.types import Array, Batch, Histories, Spec, Steps, narrowest


@dataclasses.dataclass(frozen=True)
class Config:
    """What of the histories is trained on."""

    tail: float = 1.0  # share of each history that is kept, its last episodes; a small one is expert distillation
    keep_every: int = 1  # k: keep every k-th episode
    phases: int = 1  # how many of the k thinned versions of each history are kept
    segment: int = 160  # L, steps in a training window
    batch: int = 64  # B, windows in an update
    labels: Literal["source", "optimal"] = "source"  # whose actions are the targets
    best: float | None = None  # share of each task's histories that is kept, those that end best; None is all
    groups: int = 8  # G; must be a multiple of the devices that split the batch, and divide the batch

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
        if self.segment < 1 or self.batch < 1 or self.groups < 1 or self.batch % self.groups:
            raise ConfigError(
                f"replay.batch must be a positive multiple of replay.groups; "
                f"got batch={self.batch}, groups={self.groups}, segment={self.segment}"
            )
        if self.groups % split:
            raise ConfigError(
                f"replay.groups={self.groups} cannot be split over {split} devices (mesh data x fsdp); "
                f"set replay.groups to a multiple of {split}"
            )

    def first_episode(self, episodes: Any) -> Any:
        """The first episode that is kept of a history of `episodes`, a number or an array of them."""
        return np.floor((1 - self.tail) * episodes + 1e-9).astype(int)  # at least one stays: tail is above 0

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
        HistoryError: if a reward or an observation is not finite.
    """
    config.validate(batch_devices(mesh))
    if where := histories.not_finite():
        raise HistoryError(f"{where} is no finite number: nothing can be learned from it. Collect these histories anew")
    (histories, rows), label = _best(histories, config), None
    if config.labels == "optimal":
        if relabel is None:
            raise ConfigError('replay.labels="optimal" needs to be told the optimal actions; give `load` a `relabel`')
        label = relabel(histories)
    arrays, length = thin(histories, config, label)
    shortest = int(length.min())
    if shortest < config.segment:
        raise ConfigError(
            f"replay.segment={config.segment} steps is longer than a history: after keeping every "
            f"{config.keep_every}th episode of the last {config.tail:.0%} the shortest has {shortest}. Lower "
            "replay.segment or replay.keep_every, raise replay.tail, or collect longer histories"
        )
    count = len(length)
    if count < config.groups:
        raise ConfigError(f"{count} histories cannot fill replay.groups={config.groups}; lower replay.groups")
    none = {"action": spec.num_actions, "reward": 0, "done": False, "observation": 0, "label": 0}
    arrays["action"] = arrays["action"].astype(narrowest(spec.num_actions))  # has to hold "none" as well
    deal = lambda x: _deal(x, config.groups)
    shifted = {name: deal(_prepend(x, none[name])) for name, x in arrays.items()}
    replay = Replay(
        length=deal(length),
        history=deal(np.tile(rows, config.phases)),
        count=np.array([len(range(g, count, config.groups)) for g in range(config.groups)], np.int32),
        group=np.arange(config.groups, dtype=np.int32),
        **shifted,
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


def thin(
    histories: Histories, config: Config, label: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Keep every k-th episode of each history, in each of the phases asked for, with the labels `[H, T]` if any.

    Returns:
        Arrays by name, `[H * phases, T', ...]`, valid up to `length [H * phases]` int32 and arbitrary after it.
    """
    t = histories.transition
    done = np.asarray(t.terminated) | np.asarray(t.truncated)
    episode = np.cumsum(done, axis=1) - done  # [H, T], which episode each step belongs to
    in_tail = episode >= config.first_episode(episode[:, -1:] + 1)
    arrays = {"observation": t.observation, "action": t.action, "reward": t.reward, "done": done}
    if label is not None:
        arrays["label"] = label
    versions, lengths = [], []
    for phase in range(config.phases):
        # Counted from the end of each group of k, so that phase 0 holds the last episode, the one learned best.
        offset = config.keep_every - 1 - phase * config.keep_every // config.phases
        kept = in_tail & (episode % config.keep_every == offset)
        order = np.argsort(~kept, axis=1, kind="stable")
        lengths.append(kept.sum(1).astype(np.int32))
        versions.append((order, lengths[-1].max()))
    longest = max(length for _, length in versions)

    def gather(x):
        pick = lambda order: np.take_along_axis(
            x, order[:, :longest].reshape(*order[:, :longest].shape, *(1,) * (x.ndim - 2)), 1
        )
        return np.concatenate([pick(order) for order, _ in versions])

    return {name: gather(np.asarray(x)) for name, x in arrays.items()}, np.concatenate(lengths)


def _best(histories: Histories, config: Config) -> tuple[Histories, np.ndarray]:
    """Each task's histories that earn most in the last tenth of their steps, in their order, and their numbers."""
    if config.best is None:
        return histories, np.arange(len(histories.task_ids), dtype=np.int32)
    reward = np.asarray(histories.transition.reward)
    at_the_end = reward[:, -max(1, reward.shape[1] // 10) :].sum(1, dtype=np.float64)
    rows_of: dict[str, list[int]] = {}
    for row, task in enumerate(histories.task_ids):
        rows_of.setdefault(task, []).append(row)
    best_of = lambda rows: sorted(rows, key=lambda row: -at_the_end[row])[: config.kept_of(len(rows))]
    kept = np.array(sorted(row for rows in rows_of.values() for row in best_of(rows)), np.int32)
    at = lambda tree: jax.tree.map(lambda x: np.asarray(x)[kept], tree)
    ids = [histories.task_ids[row] for row in kept]
    h = histories
    return Histories(at(h.transition), at(h.tasks), ids, at(h.seed_index), at(h.actor)), kept


def drawn(replay: Replay, key: jax.Array, config: Config, mesh: Mesh) -> np.ndarray:
    """Numbers of the histories that `sample` draws from with the same key, `[B]` int32, for errors that name them."""
    rows = config.batch // config.groups
    draw = jax.vmap(lambda r: r.history[_draw(r, key, rows, config.segment)[0]])
    return np.asarray(jax.jit(draw, out_shardings=replicated(mesh))(replay)).reshape(-1)


def _draw(replay: Replay, key: jax.Array, rows: int, segment: int) -> tuple[jax.Array, jax.Array]:
    """Rows of one group, and where their windows begin, `[rows]` each. The key is consumed."""
    key_history, key_start = jax.random.split(jax.random.fold_in(key, replay.group))
    history = jax.random.randint(key_history, (rows,), 0, replay.count)
    return history, jax.random.randint(key_start, (rows,), 0, replay.length[history] - segment + 1)


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


def _deal(x: np.ndarray, groups: int) -> np.ndarray:
    """`[H, ...]` dealt round-robin into `[G, M, ...]`, padded with zeros."""
    each = -(-len(x) // groups)
    padded = np.concatenate([x, np.zeros((each * groups - len(x), *x.shape[1:]), x.dtype)])
    return np.ascontiguousarray(padded.reshape(each, groups, *x.shape[1:]).swapaxes(0, 1))
