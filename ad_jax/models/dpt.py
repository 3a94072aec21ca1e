"""DPT, the Decision-Pretrained Transformer: the best action in a situation, from a set of transitions.

A step is two tokens. The transition token is what was done last and what came of it: observation, action, reward, next
observation (none where that ended an episode). The query token is the present observation. Transitions attend to the
transitions before them, a query to those so far and to itself, and its logits are the answer. There are no positions:
the order of the context carries nothing but what the causal mask lets through, and with one layer nothing at all.

In training the transitions of a window are put in a random order, and the query at step t is answered from the first t
of them: every length of context, in no order. That is for labels which do not depend on the order of the past, the
optimal actions of `method=dpt`. Trained so, a model that samples its actions samples its posterior.

Source: Lee et al. 2023 (arXiv 2306.14892), sections 3 and 4, algorithm 1. Deliberate differences. There, one query
stands first and is answered at each length of the context, and the context grows by whole episodes; here each step has
its own query, and the context grows by each step, so that a window is answered at every step and what is trained is
what acts. There the network, a GPT-2, also adds a learned embedding of the place in the sequence.

Letters: B batch, L steps, D width, K heads, h head width, W window, A actions.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct

from ad_jax.errors import ConfigError
from ad_jax.models import transformer
from ad_jax.models.attention import ring_attention, segment_attention
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.functional import functional
from ad_jax.models.heads.categorical import Categorical
from ad_jax.models.tokens import PixelConfig, Tokenizer
from ad_jax.types import Discrete, Spec, Steps

PARTITION = (
    *transformer.PARTITION,
    (r"(after|asked)/kernel", ("embed", None)),
    (r"asked/bias", ()),
)


@dataclasses.dataclass(frozen=True)
class DPTModel(ModelConfig):
    """Options of the Decision-Pretrained Transformer."""

    layers: int = 4
    width: int = 64  # D
    heads: int = 4  # K
    mlp_width: int = 256
    window: int = 80  # W, in transitions
    shuffle: bool = True  # in training; without, the query at step t is answered from the t transitions before it
    embedding_scale: float = 1.0  # standard deviation of the embedding tables at the start
    numeric_observations: bool = False  # whole observations enter as numbers from -1 to 1: unseen ones lie between
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters, norms, softmax and logits stay float32
    pixel_channels: tuple[int, ...] = (32, 32, 32)  # pixel observations only: as in `transformer`
    pixel_kernel: int = 5
    pixel_stride: int = 2
    pixel_width: int = 256

    @property
    def block(self) -> transformer.Transformer:
        """Of the blocks, which are the streaming transformer's."""
        names = {field.name for field in dataclasses.fields(transformer.Transformer)}
        return transformer.Transformer(**{name: x for name, x in vars(self).items() if name in names})

    def validate(self) -> None:
        """Raise ConfigError where options contradict each other."""
        if self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"model.width must be a multiple of heads = {self.heads}; got {self.width}")
        # Halves of a head matter to rotary positions alone.
        dataclasses.replace(self.block, heads=1, width=2 * self.width).validate()

    def make(self, spec: Spec) -> Model:
        """Return the DPT for observations and actions of `spec`.

        Raises:
            ConfigError: if the options contradict each other.
        """
        self.validate()
        if not isinstance(spec.action, Discrete):
            raise ConfigError(
                f"model=dpt answers with one of a number of actions; these are {spec.action}. Use model=transformer or "
                "model=lstm"
            )
        if spec.extra:
            added = ", ".join(name for name, _ in spec.extra)
            raise ConfigError(
                f"model=dpt reads transitions and nothing else; the method adds {added} to the steps. Use "
                "model=transformer or model=lstm"
            )
        init, network = functional(lambda key: Network(self, spec, rngs=nnx.Rngs(key)))
        window = self.window

        def apply(params, steps, key=None):
            return network(params)(steps, Segment(window), key=key if self.shuffle else None)[0]

        def init_cache(batch):
            shape = (batch, self.heads, window, self.width // self.heads)

            def empty():
                return tuple(jnp.zeros(shape, self.compute_dtype) for _ in range(self.layers))

            return Cache(empty(), empty(), jnp.zeros((batch, 1, self.width), jnp.float32), jnp.int32(0))

        def decode(params, cache, steps):
            ring = Ring(cache, window)
            one = jax.tree.map(lambda x: x[:, None], steps)
            logits, observed = network(params)(one, ring, before=cache.observed)
            return logits[:, 0], Cache(tuple(ring.keys), tuple(ring.values), observed, cache.time + 1)

        def context_start(prev_done):
            # Each layer sees W - 1 transitions back, and the oldest of them began one step before.
            return max(0, len(prev_done) - 1 - self.layers * (window - 1) - 1)

        return Model(
            init, apply, init_cache, decode, context_start, window, None, PARTITION, Categorical(spec.action.n)
        )


@struct.dataclass
class Cache:
    """The last W transitions of every layer."""

    keys: tuple[jax.Array, ...]  # layers of [B, K, W, h]
    values: tuple[jax.Array, ...]
    observed: jax.Array  # [B, 1, D] float32, the embedding of the observation that was acted on last
    time: jax.Array  # [] int32, steps seen; one stream clock for the whole batch


class Segment:
    """Attention of the transitions and queries of a segment: query t (0..L-1) sees transitions 1..t, the last W."""

    def __init__(self, window: int):
        self.window = window

    def transitions(self, layer, q, k, v):
        self.held = k, v
        return segment_attention(q, k, v, window=self.window, n=1) if q.shape[1] else v

    def queries(self, layer, q, k, v):
        first, rest = v[:, :1], slice(1, None)  # before the first transition a query sees itself alone
        if q.shape[1] == 1:
            return first
        own = k[:, rest], v[:, rest]
        return jnp.concatenate([first, segment_attention(q[:, rest], *self.held, window=self.window, n=1, own=own)], 1)


class Ring:
    """Attention of one step's transition and query to those held, the new transition among them."""

    def __init__(self, cache: Cache, window: int):
        self.keys, self.values = list(cache.keys), list(cache.values)
        # The first step has no transition: what it writes is in no slot that is read, until it is overwritten.
        self.slot = (cache.time - 1) % window
        self.filled = jnp.minimum(cache.time, window)

    def transitions(self, layer, q, k, v):
        at = (0, 0, self.slot, 0)
        self.keys[layer] = jax.lax.dynamic_update_slice(self.keys[layer], k.swapaxes(1, 2), at)
        self.values[layer] = jax.lax.dynamic_update_slice(self.values[layer], v.swapaxes(1, 2), at)
        return self.attend(layer, q)

    def queries(self, layer, q, k, v):
        return self.attend(layer, q, (k, v))

    def attend(self, layer, q, own=None):
        slot, filled = self.slot[None, None], self.filled[None, None]
        return ring_attention(q, self.keys[layer], self.values[layer], slot=slot, filled=filled, own=own)


class Network(nnx.Module):
    """Transitions and queries -> blocks -> logits. Attention itself comes from outside: over a segment, or a cache."""

    def __init__(self, c: DPTModel, spec: Spec, *, rngs: nnx.Rngs):
        self.c = c
        pixels = PixelConfig(
            c.pixel_channels, c.pixel_width, False, 0.0, c.compute_dtype, c.pixel_kernel, c.pixel_stride
        )
        self.tokens = Tokenizer(spec, c.width, "step", c.embedding_scale, pixels, c.numeric_observations, rngs=rngs)
        self.after = nnx.Linear(c.width, c.width, use_bias=False, rngs=rngs)  # an observation as what came next
        self.asked = nnx.Linear(c.width, c.width, rngs=rngs)  # and as a query
        for layer in range(c.layers):  # by name, so that parameter paths are strings all the way to the checkpoint
            setattr(self, f"block_{layer}", transformer.Block(c.block, rngs=rngs))
        self.norm = nnx.RMSNorm(c.width, rngs=rngs)
        self.head = nnx.Linear(c.width, spec.num_actions, rngs=rngs)

    def embed(self, steps: Steps, before: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tokens of transitions `[B, T, D]` and queries `[B, L, D]`; the last observation's embedding `[B, 1, D]`.

        T is L where the embedding `before [B, 1, D]` of the observation before the segment is given. Else it is L - 1:
        what led to a segment's first step began before it.
        """
        seen = self.tokens.embed_observation(steps.observation)
        first = 1 if before is None else 0
        from_where = seen[:, :-1] if before is None else jnp.concatenate([before, seen[:, :-1]], axis=1)
        done = steps.prev_done[:, first:]
        transitions = (
            from_where
            + self.tokens.action(steps.prev_action[:, first:])
            + self.tokens.reward(steps.prev_reward[:, first:, None])
            + self.tokens.done(done.astype(jnp.int32))
            + jnp.where(done[..., None], 0.0, self.after(seen[:, first:]))
        )
        return transitions, self.asked(seen), seen[:, -1:]

    def __call__(self, steps: Steps, context, before=None, key=None) -> tuple[jax.Array, jax.Array]:
        """Logits `[B, L, A]` of steps `[B, L]`, and the embedding of the last observation. A key shuffles."""
        x, asked, last = self.embed(steps, before)
        if key is not None:
            order = jnp.argsort(jax.random.uniform(key, x.shape[:2], jnp.float32), axis=1)
            x = jnp.take_along_axis(x, order[..., None], axis=1)

        def rows(x):
            return x.reshape(-1, self.c.width)

        for layer in range(self.c.layers):
            block = getattr(self, f"block_{layer}")

            def attend(x, how, layer=layer):
                def fold(y):
                    return y.reshape(*x.shape[:2], *y.shape[1:])

                return lambda q, k, v: how(layer, fold(q), fold(k), fold(v)).reshape(q.shape)

            # Apart, so that nothing is computed of the last layer's transitions but their keys and values.
            x = block(rows(x), attend(x, context.transitions), _keep).reshape(x.shape)
            asked = block(rows(asked), attend(asked, context.queries), _keep).reshape(asked.shape)
        return self.head(self.norm(asked)).astype(jnp.float32), last


def _keep(x):
    """No dropout."""
    return x
