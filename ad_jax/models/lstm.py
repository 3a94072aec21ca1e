"""An LSTM over steps: the recurrent backbone that algorithm distillation is compared on. Its cache is its state.

One token a step, as the streaming transformer has, through a stack of LSTM layers and then an MLP. The state has a
fixed size and no window: what is remembered is what training on segments has taught it to keep. A segment starts from
the state of an empty context.

With `value_head` the network also estimates the return to come, which reinforcement learning trains it with
(`LSTM.actor_critic`); as a `Model` it is the same function of its other parameters as without.

Source: Laskin et al. 2022 (arXiv 2210.14215), appendix (hidden 512, MLP 2 x 256: `hidden=512`, `mlp_width=256`);
Hochreiter and Schmidhuber 1997; the forget gate's bias starts at 1 (Jozefowicz et al. 2015).

Letters: B batch, L steps, D token width, H hidden, A actions.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ad_jax.errors import ConfigError
from ad_jax.models.base import ActorCritic, Model, ModelConfig, Params
from ad_jax.models.functional import functional
from ad_jax.models.heads import Head, Options
from ad_jax.models.memory import begun_anew, last_boundary
from ad_jax.models.tokens import PARTITION as TOKENS
from ad_jax.models.tokens import PixelConfig, Tokenizer, masked
from ad_jax.types import Spec, Steps

# The four gates lie side by side in one matrix, so that a split of its columns would move them at every step.
PARTITION = (
    *TOKENS,
    (r"layer_\d+/(inputs|recurrent)/kernel", ("embed", None)),
    (r"mlp_in/kernel", ("embed", "mlp")),
    (r"mlp_out/kernel", ("mlp", "embed")),
    (r"(value_)?head/kernel", ("embed", None)),
    (r"(layer_\d+/inputs|mlp_in|mlp_out|head|value_head)/bias", ()),
)

OWN = ("head", "tokens")  # of the parameters: what takes observations and gives actions
SPAN = 16  # steps that stand for a window where one is asked for: the state itself has no end


@dataclasses.dataclass(frozen=True)
class LSTM(Options, ModelConfig):
    """Options of the LSTM."""

    layers: int = 1
    width: int = 64  # D
    hidden: int = 256  # H, of each layer
    mlp_width: int = 256  # of the two layers between the LSTM and the logits
    token_mask: float = 0.0  # probability that a training token is replaced by the mask embedding
    embedding_scale: float = 1.0  # standard deviation of the embedding tables at the start
    numeric_observations: bool = False  # whole observations enter as numbers from -1 to 1: unseen ones lie between
    value_head: bool = False  # one more output, an estimate of the return to come, for training by RL²
    pixel_channels: tuple[int, ...] = (32, 32, 32)  # pixel observations only: as in `transformer`
    pixel_kernel: int = 5
    pixel_stride: int = 2
    pixel_width: int = 256
    memory: Literal["episode"] | None = None  # what it remembers: the episode it is in alone; None: its lifetime

    def validate(self) -> None:
        """Raise ConfigError for sizes that cannot be."""
        for name in ("layers", "width", "hidden", "mlp_width", "pixel_width", "pixel_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.token_mask < 1:
            raise ConfigError(f"model.token_mask is a probability below 1; got {self.token_mask}")
        if self.pixel_kernel < self.pixel_stride or min(self.pixel_channels, default=1) < 1:
            raise ConfigError(
                f"model.pixel_kernel={self.pixel_kernel} must be at least model.pixel_stride={self.pixel_stride}, and "
                f"model.pixel_channels at least 1 each; got {self.pixel_channels}"
            )

    def make(self, spec: Spec, head: Head | None = None) -> Model:
        """Return the LSTM for observations and actions of `spec`, with the head of those or another.

        Raises:
            ConfigError: if an option cannot be, or the head is one of other actions.
        """
        head = self.head(spec) if head is None else head
        init, init_cache, network = parts(self, spec, head)

        def apply(params, steps, key=None):
            return network(params)(steps, init_cache(len(steps.prev_done)), key)[0]

        def decode(params, cache, steps):
            logits, cache = network(params)(jax.tree.map(lambda x: x[:, None], steps), cache)
            return logits[:, 0], cache

        def context_start(prev_done):
            return last_boundary(prev_done) if self.memory == "episode" else 0

        def unroll(params, cache, steps):
            return network(params)(steps, cache)

        return Model(init, apply, init_cache, decode, context_start, SPAN, None, PARTITION, head, unroll, own=OWN)

    def actor_critic(self, spec: Spec) -> ActorCritic:
        """Return the same network with its value.

        Raises:
            ConfigError: if an option cannot be, or there is no value head.
        """
        if not self.value_head:
            raise ConfigError("a policy with a value needs model.value_head=True; got False")
        init, init_cache, network = parts(self, spec)

        def segment(params, cache, steps):
            return network(params).with_value(steps, cache)

        return ActorCritic(init, init_cache, segment, PARTITION)


class Carry(NamedTuple):
    """The state of one layer, `[B, H]` each."""

    cell: jax.Array
    output: jax.Array


class Layer(nnx.Module):
    """One LSTM layer over a segment."""

    def __init__(self, inputs: int, hidden: int, *, rngs: nnx.Rngs):
        def bias(key, shape, dtype):  # of the gates input, forget, candidate, output
            return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1.0)

        self.inputs = nnx.Linear(inputs, 4 * hidden, bias_init=bias, rngs=rngs)
        orthogonal = nnx.initializers.orthogonal()
        self.recurrent = nnx.Linear(hidden, 4 * hidden, use_bias=False, kernel_init=orthogonal, rngs=rngs)

    def __call__(self, x: jax.Array, carry: Carry, first: jax.Array | None = None) -> tuple[jax.Array, Carry]:
        """`[B, L, inputs]` and the state before it -> `[B, L, H]` and the state after it.

        At the steps that are `first`, `[B, L]` bool, the state is an empty context's.
        """
        recurrent = self.recurrent.kernel[...]

        def step(carry, now):
            gates, anew = now
            if anew is not None:
                carry = jax.tree.map(lambda state: jnp.where(anew[:, None], 0, state), carry)
            i, f, g, o = jnp.split(gates + carry.output @ recurrent, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * carry.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            output = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return Carry(cell, output), output

        # What does not wait for the step before is one product over the whole segment.
        over = self.inputs(x).swapaxes(0, 1), None if first is None else first.T
        carry, outputs = jax.lax.scan(step, carry, over)
        return outputs.swapaxes(0, 1), carry


class Recurrent(nnx.Module):
    """Tokens -> LSTM layers -> MLP -> outputs."""

    def __init__(self, c: LSTM, spec: Spec, outputs: int, *, rngs: nnx.Rngs):
        self.c, self.action = c, spec.action
        pixels = PixelConfig(c.pixel_channels, c.pixel_width, False, 0.0, "float32", c.pixel_kernel, c.pixel_stride)
        self.tokens = Tokenizer(spec, c.width, "step", c.embedding_scale, pixels, c.numeric_observations, rngs=rngs)
        self.mask_token = nnx.Param(jnp.zeros((c.width,), jnp.float32))
        for layer in range(c.layers):  # by name, so that parameter paths are strings all the way to the checkpoint
            setattr(self, f"layer_{layer}", Layer(c.hidden if layer else c.width, c.hidden, rngs=rngs))
        self.mlp_in = nnx.Linear(c.hidden, c.mlp_width, rngs=rngs)
        self.mlp_out = nnx.Linear(c.mlp_width, c.mlp_width, rngs=rngs)
        self.head = nnx.Linear(c.mlp_width, outputs, rngs=rngs)
        if c.value_head:  # made last, so that the others start as they do without it
            self.value_head = nnx.Linear(c.mlp_width, 1, rngs=rngs)

    def __call__(self, steps: Steps, carries: tuple[Carry, ...], key=None):
        """Return outputs `[B, L, head.size]` for steps `[B, L]`, and the state after them. A key means training."""
        x, after = self.features(steps, carries, key)
        return self.head(x), after

    def with_value(self, steps: Steps, carries: tuple[Carry, ...]):
        """Logits `[B, L, A]`, values `[B, L]` and the state after the steps; needs a value head."""
        x, after = self.features(steps, carries)
        return self.head(x), self.value_head(x)[..., 0], after

    def features(self, steps: Steps, carries: tuple[Carry, ...], key=None):
        """Return what the heads see, `[B, L, mlp_width]`, and the state after the steps."""
        key_tokens = None if key is None else jax.random.fold_in(key, 0)
        first = steps.prev_done if self.c.memory == "episode" else None
        steps = steps if first is None else begun_anew(steps, self.action)
        x = self.tokens(steps, key_tokens)[:, :, 0]
        if key is not None and self.c.token_mask > 0:
            x = masked(jax.random.fold_in(key, 1), self.c.token_mask, x, self.mask_token[...])
        after = []
        for layer, carry in enumerate(carries):
            x, carry = getattr(self, f"layer_{layer}")(x, carry, first)
            after.append(carry)
        return jax.nn.relu(self.mlp_out(jax.nn.relu(self.mlp_in(x)))), tuple(after)


def parts(
    config: LSTM, spec: Spec, head: Head | None = None
) -> tuple[Callable[..., Params], Callable[[int], tuple[Carry, ...]], Callable[[Params], Recurrent]]:
    """`init` and `init_cache` of the model, and the network of given parameters.

    Raises:
        ConfigError: if an option cannot be, or the head is one of other actions.
    """
    config.validate()
    outputs = (config.head(spec) if head is None else head).size
    init, network = functional(lambda key: Recurrent(config, spec, outputs, rngs=nnx.Rngs(key)))

    def init_cache(batch):
        def empty():
            return jnp.zeros((batch, config.hidden), jnp.float32)  # one each: a buffer is donated only once

        return tuple(Carry(empty(), empty()) for _ in range(config.layers))

    return init, init_cache, network
