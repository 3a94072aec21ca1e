"""Learning histories on the devices, and training windows drawn from them inside the jitted step.

Histories are dealt round-robin into G groups; groups are split over the mesh's batch axes, and row b of a batch is
drawn from group `b // (B / G)` by the device that holds it. So sampling moves nothing between devices, and a batch
depends on (seed, step) alone, not on how many devices there are. A window is `(history, start)`: it cannot cross
histories.

Episode subsampling (keep every k-th, Laskin et al. 2022, section 4) happens on load. A history has k such subsampled
versions, one for each first episode ("phase"); by default one is kept, with `phases=k` all are, and no data is lost.
With `tail` below 1 the histories' beginnings are left out: what is then distilled is the expert at their end, and not
how it came to be (expert distillation, the baseline ED of Laskin et al. 2022, section 4). With `best` below 1 only
those of a task's histories are kept that end best, for sources some of whose learners fail (after LHF, Chen et al.
2025, which samples histories by how much and how steadily they improve; here the worst are left out).

What lies there of a step are columns by name (`columns`): what every method sees, and what one prepares or asks for
(`Prepare`), which is made on the host, once for each history. Nothing here knows their names.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ad_jax.history import columns
from ad_jax.history.gathering import OWN, gather, rows_of, survey
from ad_jax.history.options import Config, RotationConfig
from ad_jax.history.select import Prepare, check_lengths, check_values, final_return, select, take
from ad_jax.history.subsample import Whole, lengths, subsample
from ad_jax.sharding import BATCH, batch_devices, on_batch, put, replicated
from ad_jax.types import Array, Batch, Histories, PyTree, Spec

__all__ = [  # the options and the selection of histories, too, go by this name
    "Config",
    "Prepare",
    "Replay",
    "Residents",
    "RotationConfig",
    "check_lengths",
    "check_values",
    "final_return",
    "gather",
    "lengths",
    "load",
    "put_there",
    "rows_of",
    "sample",
    "sampled_history_ids",
    "select",
    "subsample",
    "survey",
    "take",
]


class Replay(struct.PyTreeNode):
    """Resident histories. Time is shifted by one: index 0 is the "none" step before the first."""

    steps: dict[str, Array]  # columns by name, each [G, M, 1 + T, ...]
    length: Array  # [G, M] int32, steps of each history; 0 for padding
    history: Array  # [G, M] int32, its number among those that were loaded; subsampled versions share it
    count: Array  # [G] int32, histories in each group
    group: Array  # [G] int32, 0..G-1

    period = 0  # updates for which these are the residents; 0 is always

    def at(self, _: int) -> "Replay":
        """Return the residents that the update after any step learns from: these."""
        return self

    def facts(self) -> dict[str, float]:
        """Nothing was waited for."""
        return {}

    def fields(self) -> dict[str, Array]:
        """Every array by its name."""
        return {name: value for name, value in vars(self).items() if name != "steps"} | self.steps

    @classmethod
    def of(cls, fields: Mapping[str, PyTree]) -> "Replay":
        """Inverse of `fields`."""
        steps = {name: value for name, value in fields.items() if name not in OWN}
        return cls(steps, **{name: value for name, value in fields.items() if name in OWN})


class Residents(Protocol):
    """What lies on the devices, by update: a `Replay`, a `Rotation` of more than they hold, or training tasks."""

    @property
    def period(self) -> int:
        """Updates for which the residents stay the same, from one multiple of it to the next; 0 is always."""
        ...

    def at(self, step: int, /) -> PyTree:
        """Return the residents of the update after `step`; what was returned before is gone."""
        ...

    def facts(self) -> dict[str, float]:
        """Return what is known of the waiting for histories, for the run's record."""
        ...


def load(
    histories: Histories,
    spec: Spec,
    config: Config,
    mesh: Mesh,
    prepare: Prepare | None = None,
) -> Replay:
    """Subsample histories and put them on the devices of `mesh`; each process puts the groups of its own there.

    Args:
        histories: the learning histories, `[H, T]`, in host memory.
        spec: of the observations and actions as they are stored.
        config: how histories are subsampled and grouped, and how long a window is.
        mesh: whose batch axes split the groups.
        prepare: gives more channels of the steps.

    Raises:
        ConfigError: if a subsampled history is shorter than a window, or there are fewer histories than groups, or a
            channel has the name of another or is not as long as the histories.
        HistoryError: if a reward or an observation is not finite, or an action or observation is not of `spec`.
    """
    config.validate(batch_devices(mesh))
    return put_there(gather(Whole(histories), spec, config, prepare), mesh)


def put_there(fields: dict[str, np.ndarray], mesh: Mesh) -> Replay:
    """Return what `gather` gave, on the devices of `mesh`; taken out of `fields`, so that no two copies stay."""
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
    needs: Collection[str] = (),
) -> Batch:
    """Draw a batch of windows `[B, L]`, each device from its own groups. The key is consumed.

    Args:
        replay: the histories on the devices, as `load` returns them.
        key: decides which windows are drawn.
        spec: of the observations as they are stored.
        config: gives B (`batch`), the number of `groups` and L (`segment`).
        mesh: whose batch axes split the groups and the batch.
        render: what the model sees of one of them; the batch holds that.
        inputs: which of the method's channels go to the model; the others are targets.
        needs: what the method asks for of each step, for its targets.
    """
    shared, split = PartitionSpec(), PartitionSpec(BATCH)
    rows = config.batch // config.groups

    def of_group(replay: Replay, key: jax.Array) -> Batch:
        return columns.batch(_windows(replay, key, rows, config.segment), spec, render, inputs, needs)

    draw = jax.vmap(of_group, (0, None))
    drawn = jax.shard_map(draw, mesh=mesh, in_specs=(split, shared), out_specs=split, check_vma=False)(replay, key)
    return jax.tree.map(lambda x: x.reshape(config.batch, *x.shape[2:]), drawn)


def sampled_history_ids(replay: Replay, key: jax.Array, config: Config, mesh: Mesh) -> np.ndarray:
    """Numbers of the histories that `sample` draws from with the same key, `[B]` int32, for errors that name them."""
    rows = config.batch // config.groups
    draw = jax.vmap(lambda r: r.history[_draw(r, key, rows, config.segment)[0]])
    return np.asarray(jax.jit(draw, out_shardings=replicated(mesh))(replay)).reshape(-1)


def _draw(replay: Replay, key: jax.Array, rows: int, segment: int) -> tuple[jax.Array, jax.Array]:
    """Rows of one group, and where their windows begin, `[rows]` each. The key is consumed."""
    key_history, key_start = jax.random.split(jax.random.fold_in(key, replay.group))
    history = jax.random.randint(key_history, (rows,), 0, replay.count, jnp.int32)
    return history, jax.random.randint(key_start, (rows,), 0, replay.length[history] - segment + 1, jnp.int32)


def _windows(replay: Replay, key: jax.Array, rows: int, segment: int) -> dict[str, jax.Array]:
    """`rows` windows from one group, of each column `[rows, 1 + L, ...]`: `replay` without its G axis."""
    history, start = _draw(replay, key, rows, segment)

    def window(x):
        def cut(h, s):
            return jax.lax.dynamic_slice_in_dim(x[h], s, segment + 1)

        return jax.vmap(cut)(history, start)

    return {name: window(x) for name, x in replay.steps.items()}
