"""An LSTM over steps: the recurrent backbone that algorithm distillation is compared on. Its cache is its state.

One token a step, as the streaming transformer has, through a stack of LSTM layers and then an MLP. The state has a
fixed size and no window: what is remembered is what training on segments has taught it to keep. A segment starts from
the state of an empty context.

Source: Laskin et al. 2022 (arXiv 2210.14215), appendix (hidden 512, MLP 2 x 256: `hidden=512`, `mlp_width=256`);
Hochreiter and Schmidhuber 1997; the forget gate's bias starts at 1 (Jozefowicz et al. 2015).

Letters: B batch, L steps, D token width, H hidden, A actions.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ad_jax.errors import ConfigError
from ad_jax.models.base import Model
from ad_jax.models.tokens import PixelConfig, Tokenizer, masked
from ad_jax.types import Spec, Steps

SPAN = 16  # steps that stand for a window where one is asked for: the state itself has no end


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and options."""

    layers: int = 1
    width: int = 64  # D
    hidden: int = 256  # H, of each layer
    mlp_width: int = 256  # of the two layers between the LSTM and the logits
    token_mask: float = 0.0  # probability that a training token is replaced by the mask embedding
    embedding_scale: float = 1.0  # standard deviation of the embedding tables at the start
    pixel_channels: tuple[int, ...] = (32, 32, 32)  # pixel observations only: as in `transformer`
    pixel_kernel: int = 5
    pixel_stride: int = 2
    pixel_width: int = 256

    def validate(self) -> None:
        """Raises ConfigError for sizes that cannot be."""
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

    def __call__(self, x: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        """`[B, L, inputs]` and the state before it -> `[B, L, H]` and the state after it."""
        recurrent = self.recurrent.kernel[...]

        def step(carry, gates):
            i, f, g, o = jnp.split(gates + carry.output @ recurrent, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * carry.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            output = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return Carry(cell, output), output

        # What does not wait for the step before is one product over the whole segment.
        carry, outputs = jax.lax.scan(step, carry, self.inputs(x).swapaxes(0, 1))
        return outputs.swapaxes(0, 1), carry


class Recurrent(nnx.Module):
    """Tokens -> LSTM layers -> MLP -> logits."""

    def __init__(self, c: Config, spec: Spec, *, rngs: nnx.Rngs):
        self.c = c
        pixels = PixelConfig(c.pixel_channels, c.pixel_width, False, 0.0, "float32", c.pixel_kernel, c.pixel_stride)
        self.tokens = Tokenizer(spec, c.width, "step", c.embedding_scale, pixels, rngs=rngs)
        self.mask_token = nnx.Param(jnp.zeros((c.width,), jnp.float32))
        for layer in range(c.layers):  # by name, so that parameter paths are strings all the way to the checkpoint
            setattr(self, f"layer_{layer}", Layer(c.hidden if layer else c.width, c.hidden, rngs=rngs))
        self.mlp_in = nnx.Linear(c.hidden, c.mlp_width, rngs=rngs)
        self.mlp_out = nnx.Linear(c.mlp_width, c.mlp_width, rngs=rngs)
        self.head = nnx.Linear(c.mlp_width, spec.num_actions, rngs=rngs)

    def __call__(self, steps: Steps, carries: tuple[Carry, ...], key=None):
        """Logits `[B, L, A]` for steps `[B, L]`, and the state after them; with `key`, training mode."""
        key_tokens = None if key is None else jax.random.fold_in(key, 0)
        x = self.tokens(steps, key_tokens)[:, :, 0]
        if key is not None and self.c.token_mask > 0:
            x = masked(jax.random.fold_in(key, 1), self.c.token_mask, x, self.mask_token[...])
        after = []
        for layer, carry in enumerate(carries):
            x, carry = getattr(self, f"layer_{layer}")(x, carry)
            after.append(carry)
        x = jax.nn.relu(self.mlp_out(jax.nn.relu(self.mlp_in(x))))
        return self.head(x), tuple(after)


def make(config: Config, spec: Spec) -> Model:
    """The LSTM of `config` for observations and actions of `spec`.

    Raises:
        ConfigError: if an option cannot be.
    """
    config.validate()
    build = lambda key: Recurrent(config, spec, rngs=nnx.Rngs(key))
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))

    def init(key):
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    def init_cache(batch):
        zeros = jnp.zeros((batch, config.hidden), jnp.float32)
        return (Carry(zeros, zeros),) * config.layers

    def apply(params, steps, key=None):
        return nnx.merge(graph, params)(steps, init_cache(len(steps.prev_action)), key)[0]

    def decode(params, cache, steps):
        logits, cache = nnx.merge(graph, params)(jax.tree.map(lambda x: x[:, None], steps), cache)
        return logits[:, 0], cache

    return Model(init, apply, init_cache, decode, lambda prev_done: 0, SPAN, None)
