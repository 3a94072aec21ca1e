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
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ad_jax.history.options import Config, RotationConfig
from ad_jax.history.select import Prepare, at_the_end, check_lengths, check_values, prepared, select, take
from ad_jax.history.subsample import ENDS, Collected, Thinned, Whole, lengths, thin
from ad_jax.sharding import BATCH, batch_devices, on_batch, put, replicated
from ad_jax.types import Array, Batch, Histories, Spec, Steps

__all__ = [  # the options and the selection of histories, too, go by this name
    "Config",
    "Prepare",
    "Replay",
    "Residents",
    "RotationConfig",
    "at_the_end",
    "check_lengths",
    "check_values",
    "drawn",
    "gather",
    "lengths",
    "load",
    "put_there",
    "rows_of",
    "sample",
    "select",
    "take",
    "thin",
]


class Replay(struct.PyTreeNode):
    """Resident histories. Time is shifted by one: index 0 is the "none" step before the first."""

    observation: Array  # [G, M, 1 + T, *O]
    action: Array  # [G, M, 1 + T, *A]
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
        extra = {name: value for name, value in fields.items() if name not in OWN}
        return cls(extra=extra, **{name: value for name, value in fields.items() if name in OWN})


OWN = tuple(field.name for field in dataclasses.fields(Replay))  # names that no channel of a method can have


class Residents(Protocol):
    """What lies on the devices, by update: a `Replay`, a `Rotation` of more than they hold, or training tasks."""

    @property
    def period(self) -> int:
        """Updates for which the residents stay the same, from one multiple of it to the next; 0 is always."""
        ...

    def at(self, step: int, /) -> Any:
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
    thinned, first = _room(of_kept, spec, config, config.groups), 0
    for chunk, size in zip(collected.chunks, map(len, earned), strict=True):
        histories, numbers = collected.read([chunk]), np.arange(first, first + size)
        check_values(histories, spec, numbers)
        place, end = np.searchsorted(kept, (first, first + size))  # of these among those that are kept
        rows, first = kept[place:end], first + size
        if len(rows):
            histories = take(histories, rows - numbers[0])
            thinned.add(int(place), histories, rows, prepared(histories, prepare, OWN))
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
    thinned = _room(lengths(histories.transition.done, config), spec, config, groups=1)
    thinned.add(0, histories, numbers, prepared(histories, prepare, OWN))
    return {name: x[0] for name, x in thinned.arrays.items()}


def _room(length: np.ndarray, spec: Spec, config: Config, groups: int) -> Thinned:
    """Room for histories of `spec`, of which thinning keeps `length` steps, `[phases * H]`."""
    return Thinned(length, spec.action.none, spec.action.dtype_with_none, config, groups)


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
    action = window(replay.action).astype(spec.action.compute_dtype)
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
