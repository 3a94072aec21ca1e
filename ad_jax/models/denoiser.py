"""The networks of a diffuser: a transformer that sees a whole plan at once, and two small ones that see two entries.

    denoiser   noised plan -> what each entry is without noise. Every entry attends to every other of its plan
    inverse    an entry and the next -> the action between them
    arrival    an entry and a goal -> in how many steps histories got there

The blocks are those of `transformer`, with its options; what is causal about it is not used.

Letters: B plans, H entries, D width, K heads, h head width, F width of the small ones, V numbers an entry.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ad_jax.errors import ConfigError
from ad_jax.models import transformer
from ad_jax.models.attention import MASKED, rotary_period, rotate
from ad_jax.models.base import Model
from ad_jax.models.diffusion import Entries, Masked, Noised
from ad_jax.models.dropout import keep
from ad_jax.models.functional import functional
from ad_jax.models.heads.base import Head
from ad_jax.types import Array, PyTree, Spec, Steps

PARTITION = (
    *transformer.PARTITION,
    (r"(entry|asked)/(embedding|kernel)", (None, "embed")),
    (r"found/kernel", ("embed", None)),
    (r"found/bias", ()),
    (r"(inverse|arrival)/(here|there)/(embedding|kernel)", (None, "mlp")),
    (r"(inverse|arrival)/told/kernel", ("mlp", None)),
    (r"(inverse|arrival)/\w+/bias", ()),
)


class Parts(NamedTuple):
    """What a diffuser trains and acts with: `Model.parts`. The functions take parameters first.

    Attributes:
        entries: what a plan is made of.
        horizon: H, entries of a plan in acting.
        head: distribution over actions.
        denoise: `(params, noised plan, level, return [B, H], asked [B, H] bool, seen [B, H or 1, H] bool, key=None)
            -> [B, H, V]`: what each entry is. `seen` says who attends to whom; with a key, training mode.
        inverse: `(params, entry, next) -> [*B, head.size]`.
        arrival: `(params, entry, known, goal, known) -> [*B, H - 1]`: logits of 1 to H - 1 steps.
    """

    entries: Entries
    horizon: int
    head: Head
    denoise: Callable[..., jax.Array]
    inverse: Callable[..., jax.Array]
    arrival: Callable[..., jax.Array]


def make(config: transformer.Transformer, spec: Spec, entries: Entries, horizon: int) -> Model:
    """Return the diffuser's networks as a `Model`, which plans and has no `decode`.

    Args:
        config: gives layers, width, heads, MLP, norms, gate, activation, dropout, dtype and the head of actions.
        spec: of what is seen and done.
        entries: what a plan is made of.
        horizon: H.

    Raises:
        ConfigError: if the options contradict each other.
    """
    if config.width % (2 * config.heads):
        raise ConfigError(f"model.width must be a multiple of 2 * heads = {2 * config.heads}; got {config.width}")
    head = config.head(spec)
    init, network = functional(lambda key: Network(config, entries, head.size, horizon, rngs=nnx.Rngs(key)))

    def denoise(params, plan, level, asked_for, asked, seen, key=None):
        return network(params).denoise(plan, level, asked_for, asked, seen, key)

    def inverse(params, entry, after):
        known = jnp.ones(after.shape, jnp.bool_)
        return network(params).inverse(entry, known, after, known)

    def arrival(params, entry, known, goal, known_goal):
        return network(params).arrival(entry, known, goal, known_goal)

    def apply(params, steps: Steps, key=None):
        """Return outputs for the action from each step to what is guessed to be there from the first step alone.

        They hang on every parameter, for whoever compares how models behave; nobody acts by them.
        """
        there = entries.of(steps)
        part = jnp.zeros(steps.prev_done.shape, jnp.int32)
        noised = noised_after_first(entries, there)
        nothing = jnp.zeros(part.shape, jnp.float32)
        seen = jnp.ones((len(part), 1, part.shape[1]), jnp.bool_)
        found = denoise(params, noised.entries, noised.level, nothing, part < 0, seen)
        guess = jnp.argmax(found, -1).astype(jnp.int32) if isinstance(entries, Masked) else found
        known = jnp.ones(there.shape, jnp.bool_)
        steps_to = jax.nn.softmax(arrival(params, there, known, guess, known))
        return inverse(params, there, guess) + steps_to[..., :1] + found.mean(-1, keepdims=True)

    def init_cache(batch):
        return jnp.zeros((batch, horizon, *entries.shape), jnp.int32 if isinstance(entries, Masked) else jnp.float32)

    def decode(params: PyTree, cache: PyTree, steps: Steps):
        raise ConfigError(
            "a diffuser's model has no decode, because its plan is made as a whole: the method's policy acts"
        )

    parts = Parts(entries, horizon, head, denoise, inverse, arrival)
    return Model(init, apply, init_cache, decode, lambda prev_done: 0, horizon, None, PARTITION, head, parts=parts)


def noised_after_first(entries: Entries, plan: Array) -> Noised:
    """Return plans `[B, H]` of which all but the first entry is at level 1: hidden, or zeros, noise's mean."""
    first = (jnp.arange(plan.shape[1], dtype=jnp.int32) == 0).reshape(1, -1, *(1,) * len(entries.shape))
    nothing = entries.size if isinstance(entries, Masked) else jnp.float32(0)
    level = jnp.broadcast_to(jnp.where(first, 0.0, 1.0), plan.shape)
    return Noised(jnp.where(first, plan, nothing), level, level)


class Network(nnx.Module):
    """All three."""

    def __init__(self, c: transformer.Transformer, entries: Entries, actions: int, horizon: int, *, rngs: nnx.Rngs):
        self.c = c
        scale = nnx.initializers.normal(c.embedding_scale)
        whole = isinstance(entries, Masked)
        if whole:
            self.entry = nnx.Embed(entries.size + 1, c.width, embedding_init=scale, rngs=rngs)  # the last is the mask
        else:  # the number, and its level as a number and as waves, by which near levels are told apart
            self.entry = nnx.Linear(6 * entries.size, c.width, use_bias=False, kernel_init=scale, rngs=rngs)
        self.whole = whole
        self.asked = nnx.Linear(2, c.width, use_bias=False, kernel_init=scale, rngs=rngs)
        for layer in range(c.layers):  # by name, so that parameter paths are strings all the way to the checkpoint
            setattr(self, f"block_{layer}", transformer.Block(c, rngs=rngs))
        self.norm = nnx.RMSNorm(c.width, rngs=rngs) if c.norm == "pre" else None
        self.found = nnx.Linear(c.width, entries.size, rngs=rngs)
        self.inverse = Pair(entries, c.mlp_width, actions, rngs=rngs)
        self.arrival = Pair(entries, c.mlp_width, horizon - 1, rngs=rngs)

    def denoise(self, plan, level, asked_for, asked, seen, key=None) -> jax.Array:
        """Return what each entry of noised plans `[B, H]` is, `[B, H, V]` float32."""
        c, (batch, length) = self.c, plan.shape[:2]
        if self.whole:
            x = self.entry(plan)
        else:
            waves = [f(2 * np.pi * n * level) for n in (1, 2) for f in (jnp.sin, jnp.cos)]
            x = self.entry(jnp.concatenate([plan, level, *waves], axis=-1))
        known = asked.astype(jnp.float32)
        x = x + self.asked(jnp.stack([known * asked_for, known], axis=-1))
        keys = iter(()) if key is None else iter(jax.random.split(key, 1 + 2 * c.layers))
        bias = jnp.where(seen, 0.0, MASKED)[:, None]  # [B, 1, H or 1, H]
        position, period = jnp.arange(length, dtype=jnp.int32), rotary_period(length, 1)

        def drop(y):
            if key is None or c.dropout == 0:
                return y
            return jnp.where(keep(next(keys), c.dropout, y.shape), y / (1 - c.dropout), 0.0)

        def attend(q, k, v):
            shape = q.shape

            def rows(y):
                return y.reshape(batch, length, *y.shape[1:])

            q, k = rotate(rows(q), position, period), rotate(rows(k), position, period)
            q, k, v = (y.swapaxes(1, 2) for y in (q * q.shape[-1] ** -0.5, k, rows(v)))  # [B, K, H, h]
            scores = jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
            scores += bias
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
            out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            out /= weights.sum(-1, keepdims=True)  # last, on the narrow side: two thirds of the time
            return out.astype(v.dtype).swapaxes(1, 2).reshape(shape)

        x = drop(x).reshape(-1, c.width)
        for layer in range(c.layers):
            x = getattr(self, f"block_{layer}")(x, attend, drop)
        x = x if self.norm is None else self.norm(x)
        return self.found(x).astype(jnp.float32).reshape(batch, length, -1)


class Pair(nnx.Module):
    """What two entries tell, `[*B, outputs]`: one hidden layer, into which whole components go by tables."""

    def __init__(self, entries: Entries, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.values = entries.values if isinstance(entries, Masked) else None

        def layer():
            if self.values is not None:
                return nnx.Embed(sum(self.values), width, embedding_init=nnx.initializers.normal(0.5), rngs=rngs)
            return nnx.Linear(2 * entries.size, width, rngs=rngs)

        self.here, self.there = layer(), layer()
        self.told = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, entry, known, other, known_other) -> jax.Array:
        hidden = jax.nn.relu(self.of(self.here, entry, known) + self.of(self.there, other, known_other))
        return self.told(hidden).astype(jnp.float32)

    def of(self, layer, entry, known) -> jax.Array:
        if self.values is None:
            return layer(jnp.concatenate([jnp.where(known, entry, 0.0), known.astype(jnp.float32)], axis=-1))
        lead = (1,) * entry.ndim
        strides = np.cumprod((1, *self.values[:0:-1]), dtype=np.int32)[::-1].copy()
        first = np.cumsum((0, *self.values[:-1]), dtype=np.int32)
        of_each = entry[..., None] // jnp.asarray(strides).reshape(*lead, -1)
        of_each = of_each % jnp.asarray(self.values, jnp.int32).reshape(*lead, -1)
        return layer(of_each + jnp.asarray(first).reshape(*lead, -1)).sum(axis=-2)
