"""The compiled parts of training: a learner's update, jitted, scanned over the updates of a dispatch, and donated.

In: a `Learner`, its feed and a schedule. Out: a `Trainer`, which `ad_jax.stage.train` runs, plans compile and benches
time.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ad_jax.checkpoint.fingerprint import without_elements
from ad_jax.errors import CheckpointError
from ad_jax.keys import named_key
from ad_jax.methods.base import Learner
from ad_jax.sharding import replicated
from ad_jax.stage.feeds import Feed
from ad_jax.types import PyTree


class Schedule(Protocol):
    """What the loop reads of a method's options; counts are of updates."""

    @property
    def updates(self) -> int: ...

    @property
    def updates_per_dispatch(self) -> int: ...

    @property
    def checkpoint_every(self) -> int: ...

    @property
    def keep_checkpoints(self) -> int: ...

    @property
    def skip_updates(self) -> int | None: ...


class Trainer:
    """The compiled parts of training for one learner, feed, schedule and mesh.

    Attributes:
        seed: the experiment's, uint32. Programs take it as an argument, not as a constant, so that seeds share them.
        init: `() -> state`, born sharded.
        loop: `(state, resident, count, seed) -> (state, metrics)`, jitted; see `run`. The state is donated.
        shardings, abstract_state: how the state lies on the mesh; its shapes with that.
    """

    def __init__(self, learner: Learner, feed: Feed, schedule: Schedule, mesh: Mesh, seed: int):
        self.learner, self.feed, self.seed = learner, feed, np.uint32(seed)
        self.size = schedule.updates_per_dispatch

        shapes, one = jax.eval_shape(learner.init, self.seed, feed.tasks), replicated(mesh)
        self.shardings = learner.shardings(shapes)
        self.abstract_state = abstract_state(shapes, self.shardings)
        born = jax.jit(learner.init, out_shardings=self.shardings)
        self.init = lambda: born(self.seed, feed.tasks)
        self.loop = jax.jit(self._loop, donate_argnums=0, out_shardings=(self.shardings, one))
        self._programs: dict[str, jax.stages.Compiled] = {}

    def key(self, step: int | jax.Array, seed: jax.Array | None = None) -> jax.Array:
        """Return the key of the update after `step`; in a program, of the seed that it was given."""
        return jax.random.fold_in(named_key(self.seed if seed is None else seed, self.learner.name), step)

    def update(self, state: PyTree, resident: PyTree, seed: jax.Array) -> tuple[PyTree, dict[str, PyTree]]:
        """One update, not yet compiled, on what the feed draws for it with the `key` of the step."""
        batch, key = self.feed.draw(resident, self.key(state.step, seed))
        return self.learner.update(state, batch, key)

    def _loop(
        self, state: PyTree, resident: PyTree, count: jax.Array, seed: jax.Array
    ) -> tuple[PyTree, dict[str, PyTree]]:
        update = jax.jit(self.update, inline=True)  # traced once, for its shapes and for the loop

        def body(i, carry):
            state, metrics = carry
            state, new = update(state, resident, seed)
            return state, jax.tree.map(lambda all_of, value: all_of.at[i].set(value), metrics, new)

        shapes = jax.eval_shape(update, state, resident, seed)[1]
        empty = jax.tree.map(lambda x: jnp.zeros((self.size, *x.shape), x.dtype), shapes)
        # A dynamic count: one program for every length, so where a run was cut cannot change its bits.
        return jax.lax.fori_loop(0, count, body, (state, empty))

    def run(self, state: PyTree, resident: PyTree, count: int | jax.Array) -> tuple[PyTree, dict[str, PyTree]]:
        """Run `count` updates, at most P = `updates_per_dispatch`.

        Args:
            state: donated.
            resident: what the feed draws from.
            count: of updates, int32 where it is an array.

        Returns:
            The state, and the metrics of the updates, `[P, ...]` each; entries past `count` are 0.
        """
        return self.loop(state, resident, count, self.seed)

    def lower(self, resident: PyTree) -> jax.stages.Lowered:
        """Return the program of `run` for residents of this kind, not yet compiled."""
        return self.loop.lower(self.abstract_state, resident, jnp.int32(1), self.seed)

    def compiled(self, resident: PyTree) -> Callable[..., tuple[PyTree, dict[str, PyTree]]]:
        """`run`, compiled for residents of this kind when it is first asked for."""
        kind = str(jax.tree.map(jax.typeof, resident))
        if kind not in self._programs:
            self._programs[kind] = self.lower(resident).compile()
        # Sent once: a number of the host's would be sent anew with every dispatch.
        program, seed = self._programs[kind], jnp.asarray(self.seed)
        return lambda state, resident, count: program(state, resident, count, seed)


def abstract_state(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Return shapes with their shardings: what to compile for, and to restore into.

    Raises:
        CheckpointError: naming what no checkpoint could hold, before anything is compiled.
    """
    if told := without_elements(shapes):
        raise CheckpointError(told)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )
