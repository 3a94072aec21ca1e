"""The source contract: an RL algorithm as a named pair of pure functions, in the manner of optax.

A source learns one task with one seed. `vmap` runs thousands. Every transition of every actor comes out, in order: a
history is one actor's stream. What is named in an experiment is a `SourceConfig`, a `flax.struct` dataclass: floats are
leaves (a sweep is a `vmap` over configs), sizes are static (`struct.field(pytree_node=False)`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax

from ad_jax.types import PyTree, Transition

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily


class Source(NamedTuple):
    """One source algorithm on one family.

    Attributes:
        init: `(key, task) -> state`. The key is consumed.
        update: `(key, state, task) -> (state, transitions [steps_per_update, actors, ...])`. Acts and learns; the key
            is consumed. Episodes may straddle updates.
        steps_per_update: environment steps of each actor in one update (static).
        actors: parallel actors of one learner (static); each one's stream is a history.
    """

    init: Callable[[jax.Array, PyTree], PyTree]
    update: Callable[[jax.Array, PyTree, PyTree], tuple[PyTree, Transition]]
    steps_per_update: int
    actors: int


class SourceConfig:
    """The options of a source, from which it is made: the plug-in itself. A subclass is a frozen dataclass."""

    def make(self, family: "TaskFamily") -> Source:
        """Make the source on a family.

        Raises:
            TypeError: if the family does not suit it.
            ConfigError: if an option cannot be.
        """
        raise NotImplementedError(f"{type(self).__name__}.make(family) -> Source")
