"""A causal transformer over steps, in two configurations of one code.

    streaming   one token a step, RMSNorm before each part, rotary positions, sliding window; its cache is a ring of
                W steps
    paper       three tokens a step, LayerNorm after each part, learned absolute positions, window = segment; its cache
                holds the last episodes and is filled anew at an episode boundary when the next episode would not fit

Sources: Laskin et al. 2022 (arXiv 2210.14215), appendix (model table); Su et al. 2021 for rotary positions. The paper
does not say how its context moves on; dropping whole old episodes at a boundary is ours.

Letters: B batch, L steps, n tokens a step, D width, K heads, h head width, W window, A actions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ad_jax.errors import ConfigError
from ad_jax.models.attention import rotary_period, rotate
from ad_jax.models.base import ActorCritic, Model, ModelConfig, Params
from ad_jax.models.branches import of_ring
from ad_jax.models.cache import episode_cache, ring_cache
from ad_jax.models.dropout import keep
from ad_jax.models.functional import functional
from ad_jax.models.fused import chosen_attention
from ad_jax.models.gate import PARTITION as GATE
from ad_jax.models.gate import Gate
from ad_jax.models.heads import Head, Options
from ad_jax.models.memory import begun_anew, episodes
from ad_jax.models.queue import with_queue
from ad_jax.models.tokens import PARTITION as TOKENS
from ad_jax.models.tokens import Layout, PixelConfig, Tokenizer, masked, tokens_per_step
from ad_jax.types import Spec, Steps

PARTITION = (
    *TOKENS,
    *GATE,
    (r"position/embedding", (None, "embed")),
    (r"block_\d+/(query|key|value)/kernel", ("embed", "heads")),
    (r"block_\d+/out/kernel", ("heads", "embed")),
    (r"block_\d+/up/kernel", ("embed", "mlp")),
    (r"block_\d+/down/kernel", ("mlp", "embed")),
    (r"(value_)?head/kernel", ("embed", None)),
    (r"(value_)?head/bias", ()),
    (r"(block_\d+/)?norm\w*/(scale|bias)", ()),
)
OWN = ("head", "tokens")  # of the parameters: what takes observations and gives actions


@dataclasses.dataclass(frozen=True)
class Transformer(Options, ModelConfig):
    """Options of the transformer; its defaults are the streaming configuration."""

    layers: int = 4
    width: int = 64  # D
    heads: int = 4  # K
    mlp_width: int = 256
    window: int = 80  # W, in environment steps
    layout: Layout = "step"
    positions: Literal["rotary", "absolute"] = "rotary"
    norm: Literal["pre", "post"] = "pre"  # "pre" is RMSNorm, "post" is LayerNorm
    activation: Literal["relu", "gelu"] = "relu"
    token_mask: float = 0.0  # probability that a training token is replaced by the mask embedding
    dropout: float = 0.0  # of each residual branch and of the embedding
    attention_dropout: float = 0.0
    embedding_scale: float = 1.0  # standard deviation of the embedding tables at the start
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters, norms, softmax and logits stay float32
    pixel_channels: tuple[int, ...] = (32, 32, 32)  # pixel observations only: of each convolution
    pixel_kernel: int = 5
    pixel_stride: int = 2  # the kernel: patches that do not overlap, much faster on a CPU
    pixel_width: int = 256  # what they are mapped to
    pixel_pool: bool = False  # halve the picture once more in each block
    pixel_dropout: float = 0.0  # after each block
    remat: bool = False  # in training, keep only what enters each block and compute its inside again going backward
    exact_context: bool = False  # the context is the last `window` steps exactly, encoded anew at each step: `queue`
    episode_length: int | None = None  # absolute positions only: most steps of an episode, to know when to refill
    # Over segments: ours ("banded") or JAX's ("fused"), the same function to rounding. None: as `models.fused` decides,
    # JAX's on a CUDA GPU and ours elsewhere. None says nothing, so directories keep their digests.
    attention: Literal["banded", "fused"] | None = None
    gate: Literal["gru"] | None = None  # joins each branch to the stream as in GTrXL; None: a sum
    memory: Literal["episode"] | None = None  # what it remembers: the episode it is in alone; None: its lifetime
    value_head: bool | None = None  # one more output, an estimate of the return to come, for training by RL²

    def validate(self) -> None:
        """Raise ConfigError where options contradict each other."""
        if self.width % (2 * self.heads):
            raise ConfigError(f"model.width must be a multiple of 2 * heads = {2 * self.heads}; got {self.width}")
        moves = self.positions == "absolute" and not self.exact_context
        if moves and not 0 < (self.episode_length or 0) <= self.window:
            raise ConfigError(
                "absolute positions need model.episode_length, at least 1 and at most the window "
                f"({self.window}): the context moves by episodes; got {self.episode_length}"
            )
        if self.gate is not None and self.norm != "pre":
            raise ConfigError(
                f"model.gate={self.gate} needs model.norm=pre: a branch is normalized first; got {self.norm}"
            )
        if self.memory == "episode" and self.positions == "absolute":
            raise ConfigError(
                "model.memory=episode needs model.positions=rotary: absolute positions count on over the episodes of a "
                f"segment; got {self.positions}"
            )
        if self.memory == "episode" and self.attention == "fused":
            raise ConfigError(
                "model.memory=episode hides other pairs of tokens in each row, which model.attention=fused cannot; use "
                "banded"
            )
        if self.value_head and (self.positions != "rotary" or self.exact_context):
            raise ConfigError(
                "model.value_head=True needs model.positions=rotary and model.exact_context=False, whose context moves "
                f"by one step at the cost of one; got {self.positions} and {self.exact_context}"
            )
        for name in ("token_mask", "dropout", "attention_dropout", "pixel_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is a probability below 1; got {getattr(self, name)}")
        for name in ("layers", "width", "heads", "mlp_width", "window", "pixel_width", "pixel_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1; got {getattr(self, name)}")
        if self.pixel_kernel < self.pixel_stride:
            raise ConfigError(
                f"model.pixel_kernel={self.pixel_kernel} is below model.pixel_stride={self.pixel_stride}: parts of the "
                "picture would be missed"
            )
        if min(self.pixel_channels, default=1) < 1:
            raise ConfigError(f"model.pixel_channels must be at least 1 each; got {self.pixel_channels}")

    def bind(self, family: Any) -> Self:
        """Return the options with the family's length of an episode, where they leave it open."""
        known = self.episode_length
        return dataclasses.replace(self, episode_length=family.episode_length if known is None else known)

    def make(self, spec: Spec, head: Head | None = None) -> Model:
        """Return the transformer for observations and actions of `spec`, with the head of those or another.

        Raises:
            ConfigError: if the options contradict each other, or the head is one of other actions.
        """
        head, init, module, turn = parts(self, spec, head)
        n, window = tokens_per_step(self.layout), self.window

        def network(params, steps, position, attend, key=None):
            steps = begun_anew(steps, spec.action) if self.memory == "episode" else steps
            return module(params)(steps, position, attend, key)

        def apply(params, steps, key=None):
            length = steps.prev_done.shape[1]
            if self.positions == "absolute" and length > window:
                raise ConfigError(f"absolute positions reach {window} steps; got a segment of {length}")
            position = jnp.arange(length * n, dtype=jnp.int32)
            episode = episodes(steps.prev_done, n) if self.memory == "episode" else None
            over = functools.partial(
                chosen_attention,
                window=window,
                n=n,
                kind=self.attention,
                dropout=self.attention_dropout,
                episode=episode,
            )

            def attend(layer, q, k, v, key):
                return over(turn(q, position), turn(k, position), v, key=key)

            return network(params, steps, position, attend, key)

        if self.exact_context:
            return with_queue(apply, init, window, spec)._replace(partition=PARTITION, head=head, own=OWN)
        if self.positions == "absolute":
            init_cache, decode, context_start = episode_cache(self, spec, n, network)
            return Model(init, apply, init_cache, decode, context_start, window, window, PARTITION, head, own=OWN)
        init_cache, decode, context_start, unroll = ring_cache(self, n, network, turn)
        model = Model(init, apply, init_cache, decode, context_start, window, None, PARTITION, head, unroll)
        return model._replace(branches=of_ring(self, n, network, turn), own=OWN)

    def actor_critic(self, spec: Spec) -> ActorCritic:
        """Return the same network with its value. One step is decoded; more go on from the ring at once.

        Raises:
            ConfigError: if an option cannot be, or there is no value head.
        """
        if not self.value_head:
            raise ConfigError(f"a policy with a value needs model.value_head=True; got {self.value_head}")
        _, init, module, turn = parts(self, spec)

        def network(params, steps, position, attend):
            steps = begun_anew(steps, spec.action) if self.memory == "episode" else steps
            return module(params).with_value(steps, position, attend)

        init_cache, decode, _, unroll = ring_cache(self, tokens_per_step(self.layout), network, turn, aged=True)

        def segment(params, cache, steps):
            if steps.prev_done.shape[1] > 1:
                (logits, value), cache = unroll(params, cache, steps)
                return logits, value, cache
            outputs, cache = decode(params, cache, jax.tree.map(lambda x: x[:, 0], steps))
            return *jax.tree.map(lambda x: x[:, None], outputs), cache

        return ActorCritic(init, init_cache, segment, PARTITION)


@dataclasses.dataclass(frozen=True)
class Paper(Transformer):
    """The configuration of Laskin et al. 2022 for Dark Room. The paper does not state its window: 4 episodes here."""

    mlp_width: int = 2048
    layout: Layout = "triple"
    positions: Literal["rotary", "absolute"] = "absolute"
    norm: Literal["pre", "post"] = "post"
    activation: Literal["relu", "gelu"] = "gelu"
    token_mask: float = 0.3
    dropout: float = 0.1
    attention_dropout: float = 0.5
    embedding_scale: float = 0.02
    pixel_channels: tuple[int, ...] = (128, 128, 128)
    pixel_pool: bool = True
    pixel_dropout: float = 0.2


class Block(nnx.Module):
    """Attention and MLP, each on a residual branch."""

    def __init__(self, c: Transformer, *, rngs: nnx.Rngs):
        norm = nnx.RMSNorm if c.norm == "pre" else nnx.LayerNorm

        def linear(i, o):
            return nnx.Linear(i, o, use_bias=False, dtype=jnp.dtype(c.compute_dtype), rngs=rngs)

        self.c = c
        self.norm_attention, self.norm_mlp = norm(c.width, rngs=rngs), norm(c.width, rngs=rngs)
        self.query, self.key = linear(c.width, c.width), linear(c.width, c.width)
        self.value, self.out = linear(c.width, c.width), linear(c.width, c.width)
        self.up, self.down = linear(c.width, c.mlp_width), linear(c.mlp_width, c.width)
        if c.gate is not None:
            dtype = jnp.dtype(c.compute_dtype)
            self.gate_attention, self.gate_mlp = Gate(c.width, dtype, rngs=rngs), Gate(c.width, dtype, rngs=rngs)

    def __call__(self, x, attend, drop):
        """X `[B * T, D]`; `attend(q, k, v [B * T, K, h]) -> [B * T, K, h]`; `drop` is dropout or the identity."""
        if self.c.gate is not None:
            x = self.gate_attention(x, jax.nn.relu(drop(self.attention(self.norm_attention(x), attend))))
            return self.gate_mlp(x, jax.nn.relu(drop(self.mlp(self.norm_mlp(x)))))
        if self.c.norm == "pre":
            x = x + drop(self.attention(self.norm_attention(x), attend))
            return x + drop(self.mlp(self.norm_mlp(x)))
        x = self.norm_attention(x + drop(self.attention(x, attend)))
        return self.norm_mlp(x + drop(self.mlp(x)))

    def attention(self, x, attend):
        def heads(y):
            return y.reshape(len(x), self.c.heads, -1)

        out = attend(heads(self.query(x)), heads(self.key(x)), heads(self.value(x)))
        return self.out(out.reshape(x.shape)).astype(jnp.float32)

    def mlp(self, x):
        activation = jax.nn.relu if self.c.activation == "relu" else jax.nn.gelu
        return self.down(activation(self.up(x))).astype(jnp.float32)


class Network(nnx.Module):
    """Tokens -> blocks -> outputs. Attention itself comes from outside: over a segment, or from a cache."""

    def __init__(self, c: Transformer, spec: Spec, outputs: int, *, rngs: nnx.Rngs):
        self.c, self.n = c, tokens_per_step(c.layout)
        pixels = PixelConfig(
            c.pixel_channels,
            c.pixel_width,
            c.pixel_pool,
            c.pixel_dropout,
            c.compute_dtype,
            c.pixel_kernel,
            c.pixel_stride,
        )
        self.tokens = Tokenizer(spec, c.width, c.layout, c.embedding_scale, pixels, rngs=rngs)
        self.mask_token = nnx.Param(jnp.zeros((c.width,), jnp.float32))
        if c.positions == "absolute":
            scale = nnx.initializers.normal(c.embedding_scale)
            self.position = nnx.Embed(c.window * self.n, c.width, embedding_init=scale, rngs=rngs)
        for layer in range(c.layers):  # by name, so that parameter paths are strings all the way to the checkpoint
            setattr(self, f"block_{layer}", Block(c, rngs=rngs))
        self.norm = nnx.RMSNorm(c.width, rngs=rngs) if c.norm == "pre" else None
        self.head = nnx.Linear(c.width, outputs, rngs=rngs)
        if c.value_head:  # made last, so that the others start as they do without it
            self.value_head = nnx.Linear(c.width, 1, rngs=rngs)

    def __call__(self, steps: Steps, position, attend, key=None) -> jax.Array:
        """Return outputs `[B, L, head.size]` for steps `[B, L]` whose tokens stand at `position [L * n]` or `[B, L *
        n]`.

        `attend(layer, q, k, v, key)` does the attention; with `key`, training mode.
        """
        x = self.features(steps, position, attend, key)
        return self.head(x).astype(jnp.float32).reshape(*steps.prev_done.shape, -1)

    def with_value(self, steps: Steps, position, attend) -> tuple[jax.Array, jax.Array]:
        """Return outputs `[B, L, head.size]` and values `[B, L]`, both float32; needs a value head."""
        x, shape = self.features(steps, position, attend), steps.prev_done.shape
        outputs = self.head(x).astype(jnp.float32).reshape(*shape, -1)
        return outputs, self.value_head(x).astype(jnp.float32).reshape(shape)

    def features(self, steps: Steps, position, attend, key=None) -> jax.Array:
        """Return what the heads see, `[B * L, D]`: the stream at the last token of each step."""
        c, batch, length = self.c, *steps.prev_done.shape
        key_tokens = None if key is None else jax.random.fold_in(key, 2**31)
        x = self.tokens(steps, key_tokens).reshape(batch, length * self.n, c.width)
        keys = iter(()) if key is None else iter(jax.random.split(key, 2 + 3 * c.layers))

        def drop(y):
            return y if key is None or c.dropout == 0 else _dropout(next(keys), y, c.dropout)

        if key is not None and c.token_mask > 0:
            x = masked(next(keys), c.token_mask, x, self.mask_token[...])
        if c.positions == "absolute":
            at = self.position(position)
            x = x + (at if at.ndim == 3 else at[None])
        # From here on tokens lie in one row after another: a weight's gradient is then one plain product, for which
        # nothing is transposed.
        x = drop(x).reshape(-1, c.width)
        for layer in range(c.layers):
            key_layer = None if key is None else next(keys)
            block = getattr(self, f"block_{layer}")

            def attend_rows(q, k, v, layer=layer, key=key_layer):
                def rows(y):
                    return y.reshape(batch, -1, *y.shape[1:])

                return attend(layer, rows(q), rows(k), rows(v), key).reshape(q.shape)

            # Decoding writes its cache in `attend`, which must run once; it has no key and no gradient.
            again = c.remat and key is not None
            forward = functools.partial(block, attend=attend_rows, drop=drop)
            x = jax.checkpoint(forward)(x) if again else forward(x)
        x = x if self.norm is None else self.norm(x)
        return x[self.n - 1 :: self.n]


def parts(
    config: Transformer, spec: Spec, head: Head | None = None
) -> tuple[Head, Callable[..., Params], Callable[[Params], Network], Callable[..., jax.Array]]:
    """Return the head, by default the options' own, `init`, the network of given parameters, and what puts rotary
    positions on queries and keys.

    Raises:
        ConfigError: if options contradict each other, or the head is one of other actions.
    """
    config.validate()
    head = config.head(spec) if head is None else head
    init, module = functional(lambda key: Network(config, spec, head.size, rngs=nnx.Rngs(key)))
    period = rotary_period(config.window, tokens_per_step(config.layout)) if config.positions == "rotary" else None

    def turn(x, position):
        return x if period is None else rotate(x, position, period)

    return head, init, module, turn


def _dropout(key, x, rate):
    return jnp.where(keep(key, rate, x.shape), x / (1 - rate), 0.0)
