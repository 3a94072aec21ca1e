"""Segments of a few steps as codes: a vector-quantized autoencoder of what happens, and how likely each code is.

From what a backbone makes of the present, g_0, a plan is a row of codes z_1, z_2, ..., each for L steps:

    g_m = GRU(g_(m-1), z_m)               what is known after the steps of z_1..z_m
    prior(g_(m-1))                        how likely each code comes next
    decoder(g_m)                          actions, rewards, ends, observations of z_m's steps, and what is to come
    encoder(g_(m-1), the steps) -> z_m    in training alone: the nearest code, by its direction

so that to plan is to choose codes, however many actions there are. Codes and what is encoded are compared by their
directions, in few dimensions, so that no code is forgotten (Yu et al. 2022, arXiv 2110.04627, section 3.2).

Source: Jiang et al. 2022 (arXiv 2208.10291), section 3. Letters: D hidden numbers, L steps of a segment, C codes.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float32, Int32, Num

from ad_jax.models.heads.base import Head
from ad_jax.models.heads.unit import to_unit
from ad_jax.models.step_tokens import Tokens
from ad_jax.types import Array, Box

PARTITION = ((r"segments/.*(embedding|kernel|bias|codebook)", ()),)
DIRECTIONS = 16  # dimensions in which codes are told apart


@dataclasses.dataclass(frozen=True)
class Shape:
    """What segments are: their tokens (`hidden` is D), the head of their actions, L and C."""

    tokens: Tokens
    action: Head
    length: int
    codes: int

    @property
    def values(self) -> tuple[int, ...]:
        """How many values, or points of a grid, each component of an observation has."""
        spec = self.tokens.spec
        return tuple(grid.bins for grid in self.tokens.observation) if spec.values is None else spec.values


class Decoded(NamedTuple):
    """What a decoder says of the steps of a segment: logits `[*B, L, ...]`, of the return to come `[*B, bins]`."""

    action: jax.Array  # outputs for the head
    reward: jax.Array
    end: jax.Array  # [*B, L], of one logit
    observation: tuple[jax.Array, ...]  # of each component, after each step
    value: jax.Array


class Segments(nnx.Module):
    """The networks."""

    def __init__(self, c: Shape, *, rngs: nnx.Rngs):
        t, hidden = c.tokens, c.tokens.hidden

        def dense(inputs, outputs, bias=True):
            return nnx.Linear(inputs, outputs, use_bias=bias, rngs=rngs)

        def table(values):  # a row for each value at each step of the segment
            return nnx.Embed(c.length * values, hidden, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)

        self.c, action, whole = c, t.spec.action, t.spec.values is not None
        self.of_action = dense(c.length * action.size, hidden) if isinstance(action, Box) else table(action.n)
        self.of_reward = dense(c.length * t.reward.bins, hidden, bias=False)
        self.of_end = dense(c.length, hidden, bias=False)
        for i, values in enumerate(c.values):
            setattr(self, f"of_{i}", table(values) if whole else dense(c.length * values, hidden, bias=False))
        self.encoder = dense(hidden, DIRECTIONS)
        self.codebook = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (c.codes, DIRECTIONS), jnp.float32))
        self.gates_code, self.gates_state = dense(DIRECTIONS, 3 * hidden), dense(hidden, 3 * hidden, bias=False)
        self.prior_in, self.prior_out = dense(hidden, hidden), dense(hidden, c.codes)
        self.decoder = dense(hidden, 2 * hidden)
        self.to_action = dense(2 * hidden, c.length * c.action.size)
        self.to_reward = dense(2 * hidden, c.length * (t.reward.bins + 1) + t.value.bins)
        self.to_observation = dense(2 * hidden, c.length * sum(c.values))

    def directions(self) -> Float32[Array, "C d"]:
        """Return the codes, each of length 1."""
        return _unit(self.codebook[...])

    def encode(
        self,
        state: Float32[Array, "*B D"],
        action: Num[Array, "..."],
        reward: Float32[Array, "*B L"],
        done: Bool[Array, "*B L"],
        observation: Num[Array, "*B L n"],
        there: Bool[Array, "*B L"],
    ) -> Float32[Array, "*B d"]:
        """Return the direction of what happens in a segment; `observation` follows the steps, `there` says which count.

        The last step's observation counts where the episode goes on.
        """
        c, lead = self.c, state.shape[:-1]
        grid, box = c.tokens.reward, c.tokens.spec.action
        counts = there[..., None].astype(jnp.float32)

        def flat(x):
            return (x * counts).reshape(*lead, -1)

        def rows(embed, values, index):
            place = jnp.arange(c.length, dtype=jnp.int32).reshape(*(1,) * len(lead), -1) * values
            return (embed(place + index) * counts).sum(-2)

        x = state + self.of_reward(flat(grid.weights(reward))) + self.of_end((done & there).astype(jnp.float32))
        if isinstance(box, Box):
            x = x + self.of_action(flat(to_unit(box, action)))
        else:
            x = x + rows(self.of_action, box.n, action)
        for i, values in enumerate(c.values):
            one, embed = observation[..., i], getattr(self, f"of_{i}")
            if c.tokens.spec.values is None:
                x = x + embed(flat(c.tokens.observation[i].weights(one)))
            else:
                x = x + rows(embed, values, one)
        return _unit(self.encoder(jax.nn.relu(x)))

    def nearest(self, direction: Float32[Array, "*B d"]) -> Int32[Array, "*B"]:
        """Return the code whose direction is nearest."""
        return jnp.argmax(direction @ self.directions().T, axis=-1).astype(jnp.int32)

    def after(self, state: Float32[Array, "*#B D"], direction: Float32[Array, "*B d"]) -> Float32[Array, "*B D"]:
        """Return what is known after a segment of that direction; axes of size 1 of the state are shared."""
        r_code, u_code, n_code = jnp.split(self.gates_code(direction), 3, axis=-1)
        r_state, u_state, n_state = jnp.split(self.gates_state(state), 3, axis=-1)
        update = jax.nn.sigmoid(u_code + u_state)
        new = jnp.tanh(n_code + jax.nn.sigmoid(r_code + r_state) * n_state)
        return update * state + (1 - update) * new

    def prior(self, state: Float32[Array, "*B D"]) -> Float32[Array, "*B C"]:
        """Return the logits of the code that comes next."""
        return self.prior_out(jax.nn.relu(self.prior_in(state)))

    def earned(
        self, state: Float32[Array, "*B D"]
    ) -> tuple[Float32[Array, "*B L bins"], Float32[Array, "*B L"], Float32[Array, "*B values"]]:
        """Return logits of the rewards and ends of the segment that led to `state`, and of the return after it."""
        return self._earned(jax.nn.relu(self.decoder(state)))

    def actions(self, state: Float32[Array, "*B D"]) -> Float32[Array, "*B L size"]:
        """Return the outputs for the head of the actions of the segment that led to `state`."""
        return self._actions(jax.nn.relu(self.decoder(state)))

    def decode(self, state: Float32[Array, "*B D"]) -> Decoded:
        """Return all of what the segment was that led to `state`."""
        x = jax.nn.relu(self.decoder(state))
        reward, end, value = self._earned(x)
        seen = self.to_observation(x).reshape(*x.shape[:-1], self.c.length, -1)
        ends = [sum(self.c.values[: i + 1]) for i in range(len(self.c.values))]
        return Decoded(self._actions(x), reward, end, tuple(jnp.split(seen, ends[:-1], axis=-1)), value)

    def _earned(self, x):
        found, bins = self.to_reward(x), self.c.tokens.reward.bins
        steps = found[..., : self.c.length * (bins + 1)].reshape(*x.shape[:-1], self.c.length, bins + 1)
        return steps[..., 1:], steps[..., 0], found[..., self.c.length * (bins + 1) :]

    def _actions(self, x):
        return self.to_action(x).reshape(*x.shape[:-1], self.c.length, -1)


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))
