"""The policy contract: what acts, as a pair of pure functions, and the policy that a sequence model's logits make.

A policy sees what an agent sees, one step of B lifetimes at a time, and keeps what it knows of each lifetime in its
carry. That is all that evaluation and an `Agent` roll out: whether a network, a table or a rule acts, and whether it
computes logits on the way, is the policy's own business.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.errors import AdJaxError
from ad_jax.models import heads
from ad_jax.models.base import Cache, Model, Params
from ad_jax.models.heads.base import Head
from ad_jax.models.heads.categorical import Categorical
from ad_jax.registry import conform
from ad_jax.types import Array, PyTree, Steps

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily

Mode = Literal["sampled", "greedy"]
Carry = PyTree  # pytree of arrays, each a scalar or [B, ...]


def _always(carry: Carry) -> None:
    """Return what a policy that computes nothing which could overflow says of its last step."""


class Policy(NamedTuple):
    """What acts in B lifetimes at once, for one `Spec`.

    Attributes:
        init: `batch -> carry` of empty contexts.
        act: `(params, carry, steps [B], keys [B]) -> (action, carry)`; the action is `[B]` int32 in 0..A-1, or of a Box
            `[B, *S]` float32 inside it. One key a row, all consumed: what a row does follows from its own steps and
            keys, whatever its neighbors do. A policy that is not trained ignores `params`.
        highest: `carry -> [B] float32 | None`: the largest of the numbers from which each of the last actions was
            chosen. It is finite exactly where there was something to choose, and evaluation and an `Agent` refuse to
            go on where it is not; None where there are no such numbers.
        tell: `(family, task, observation [*O], as stored) -> extras by name` of one lifetime: what it is told at each
            step beside what it sees, in `Steps.extra`, such as where a task's goal is; float32. Evaluation knows the
            task and tells it; an `Agent` does not. None: nothing is told.
    """

    init: Callable[[int], Carry]
    act: Callable[[Params, Carry, Steps, jax.Array], tuple[jax.Array, Carry]]
    highest: Callable[[Carry], jax.Array | None] = _always
    tell: Callable[["TaskFamily", PyTree, Array], dict[str, Array]] | None = None


class PolicyConfig:
    """The options of a scripted policy, from which it is made: the plug-in itself. A subclass is a frozen dataclass."""

    def make(self, family: "TaskFamily", mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Make the policy for worlds of a family.

        Args:
            family: whose tasks it acts on. What it may know of a task is in its observations alone.
            mode: `"sampled"` or `"greedy"` actions, where it knows how good or likely they are.
            temperature: of sampled actions, above 0; below 1 the likelier ones gain.

        Raises:
            ConfigError: if the policy is none for this family.
        """
        raise NotImplementedError(f"{type(self).__name__}.make(family, mode, temperature) -> Policy")


class Decided(NamedTuple):
    """The carry of a model's policy."""

    cache: Cache
    highest: jax.Array  # [B] float32, of the last step's logits


def from_model(model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """Return the policy that acts by the distribution that `model`'s head makes of its outputs.

    A logit of -inf masks an action. NaN, +inf and -inf for every action leave nothing to choose: exactly then the
    policy's `highest` is not finite.

    Args:
        model: a backbone; where it states no head, its outputs are a logit for each action.
        mode: whether an action is sampled, or is the one that the head takes where none is.
        temperature: of sampled actions, above 0; below 1 the likelier ones gain.

    Raises:
        AdJaxError: for another mode, or a temperature of 0 or below.
    """
    check_sampling(mode, temperature)

    def init(batch):
        return Decided(model.init_cache(batch), jnp.zeros((batch,), jnp.float32))

    def act(params, carry, steps, keys):
        outputs, cache = model.decode(params, carry.cache, steps)
        head = heads.of(model, outputs)
        return decide(head, outputs, keys, mode, temperature), Decided(cache, head.highest(outputs))

    return Policy(init, act, lambda carry: carry.highest)


def check_sampling(mode: Mode, temperature: float) -> None:
    """Raise AdJaxError where actions cannot be chosen so."""
    conform("mode", mode, Mode)
    if not temperature > 0:
        raise AdJaxError(f"temperature must be above 0; got {temperature}. To draw none: mode='greedy'")


def choose(logits: jax.Array, keys: jax.Array, mode: Mode, temperature: float = 1.0) -> jax.Array:
    """Actions `[B]` int32 for logits `[B, A]`; one key a row, so that a row does not depend on its neighbors."""
    return decide(Categorical(logits.shape[-1]), logits, keys, mode, temperature)


def decide(head: Head, outputs: jax.Array, keys: jax.Array, mode: Mode, temperature: float = 1.0) -> jax.Array:
    """Actions `[B, *S]` for outputs `[B, head.size]`; one key a row, so that a row does not depend on its neighbors."""
    return head.greedy(outputs) if mode == "greedy" else head.sample(outputs, keys, temperature)
