"""The backbone contract: a sequence model as a named tuple of pure functions.

`apply` sees a whole segment, `decode` one step and a cache; they are the same function, to rounding, for every step of
a stream: below, at and far past the window. That is what lets a model be trained on segments and evaluated with a
cache, and `ad_jax.testing.check_model` proves it for every backbone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.errors import ConfigError
from ad_jax.keys import a_key
from ad_jax.models.branches import Branches
from ad_jax.models.heads.base import Head
from ad_jax.types import Box, Discrete, PyTree, Spec, Steps

Params = PyTree  # nested dict of float32 arrays
Cache = PyTree  # pytree of arrays; its batch axis is the backbone's business


class Model(NamedTuple):
    r"""One backbone for one `Spec`.

    Attributes:
        init: `key -> params`. The key is consumed.
        apply: `(params, steps [B, L], key=None) -> outputs [B, L, head.size]` float32. With a key: training mode
            (dropout, token masking); the key is consumed. Without: deterministic.
        init_cache: `batch -> cache` of an empty context.
        decode: `(params, cache, steps [B]) -> (outputs [B, head.size] float32, cache)`. Deterministic.
        context_start: `prev_done [t + 1] -> s`, a plain function of NumPy bools: the first step that can reach step
            t's outputs, through all layers. `apply` on steps s..t gives at its end what `decode` gives at t; it is
            what an uncached evaluator needs.
        window: W, the most steps attended to at once, the current one included.
        max_segment: longest L that `apply` takes; None if any.
        partition: the names of every parameter's dimensions, by a pattern of its whole path,
            `(r"block_\d+/up/kernel", ("embed", "mlp"))`; `ad_jax.sharding.DIMENSIONS` says which axis of the mesh
            splits which. Needed where a mesh splits parameters.
        head: the distribution over actions that the outputs stand for; None: they are logits of Discrete actions.
        unroll: `(params, cache, steps [B, L]) -> (outputs [B, L, head.size], cache)`: what L calls of `decode` give, at
            once and with a gradient; None where a model has nothing better than those calls (`unroll_of`).
        parts: what the method that made the model acts with beside these functions, such as the steps of a planner.
        branches: how streams go on in many ways at once, for planners; None where a model has nothing better than a
            cache for each way (`branches_of`).
        own: the parts at the top of the parameters that belong to the spec, the layers that take observations and give
            actions; all others are a trunk that several specs may share (`models.together`). Empty: nobody said.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[..., jax.Array]
    init_cache: Callable[[int], Cache]
    decode: Callable[[Params, Cache, Steps], tuple[jax.Array, Cache]]
    context_start: Callable[[np.ndarray], int]
    window: int
    max_segment: int | None
    partition: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    head: Head | None = None
    unroll: Callable[[Params, Cache, Steps], tuple[jax.Array, Cache]] | None = None
    parts: PyTree = None
    branches: Branches | None = None
    own: tuple[str, ...] = ()


class ActorCritic(NamedTuple):
    """A network as a policy over a number of actions with a value, for training by reinforcement.

    Attributes:
        init: as of the `Model`, and so are the parameters.
        init_cache: `batch -> cache` of an empty context. What is a row's own leads with the batch; a scalar is a clock
            that all rows share, and goes on when a row begins anew.
        segment: `(params, cache, steps [B, L]) -> (logits [B, L, A], values [B, L], cache)`, the logits those that
            `decode` would give from that cache on.
        partition: as of the `Model`.
    """

    init: Callable[[jax.Array], Params]
    init_cache: Callable[[int], Cache]
    segment: Callable[[Params, Cache, Steps], tuple[jax.Array, jax.Array, Cache]]
    partition: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


def unroll_of(model: Model) -> Callable[[Params, Cache, Steps], tuple[jax.Array, Cache]]:
    """Return the model's `unroll`; where it has none, its `decode` step by step."""
    if model.unroll is not None:
        return model.unroll

    def unroll(params: Params, cache: Cache, steps: Steps) -> tuple[jax.Array, Cache]:
        def step(cache, one):
            outputs, cache = model.decode(params, cache, one)
            return cache, outputs

        cache, outputs = jax.lax.scan(step, cache, jax.tree.map(lambda x: x.swapaxes(0, 1), steps))
        return outputs.swapaxes(0, 1), cache

    return unroll


class ModelConfig:
    """The options of a backbone, from which it is made: the plug-in itself. A subclass is a frozen dataclass."""

    def bind(self, family: Any) -> Self:
        """Return the options with what they leave open and only the task family knows.

        Raises:
            ConfigError: if the model is none for this family.
        """
        return self

    def make(self, spec: Spec) -> Model:
        """Make the model for observations and actions of `spec`.

        Raises:
            ConfigError: if the options contradict each other, or the spec is none for this model.
        """
        raise NotImplementedError(f"{type(self).__name__}.make(spec) -> Model")

    def actor_critic(self, spec: Spec) -> ActorCritic:
        """Return the same network with its value.

        Raises:
            ConfigError: if an option cannot be, or the network has no value.
        """
        raise ConfigError(f"{type(self).__name__} has no value to reinforce. Use model=lstm or model=transformer")


def has_parameters(model: Model) -> bool:
    """Whether there is anything to train; nothing is computed."""
    return bool(jax.tree.leaves(jax.eval_shape(lambda: model.init(a_key(0)))))


def first_steps(observation: jax.Array, action: Discrete | Box) -> Steps:
    """Return the model's input `[B]` at the start of a lifetime: no previous action, which is zeros where actions are a
    `Box`.
    """
    batch = len(observation)
    none = jnp.full((batch, *action.shape), action.none, action.compute_dtype)
    return Steps(
        observation=observation,
        prev_action=none,
        prev_reward=jnp.zeros((batch,), jnp.float32),
        prev_done=jnp.zeros((batch,), jnp.bool_),
    )


def follow(observation: jax.Array, action: jax.Array, outcome: PyTree) -> Steps:
    """Return the model's next input: the observation `[B, *O]` after `action [B, ...]`, and its `Outcome`."""
    return Steps(observation=observation, prev_action=action, prev_reward=outcome.reward, prev_done=outcome.done)


def empty_steps(spec: Spec, batch: int, length: int) -> Steps:
    """Return steps `[B, L]` of zeros, for a cache of what is still to come."""

    def zeros(dtype, *shape):
        return jnp.zeros((batch, length, *shape), dtype)

    return Steps(
        observation=zeros(spec.compute_dtype, *spec.shape),
        prev_action=zeros(spec.action.compute_dtype, *spec.action.shape),
        prev_reward=zeros(jnp.float32),
        prev_done=zeros(jnp.bool_),
        extra={name: zeros(jnp.float32, *shape) for name, shape in spec.extra},
    )
