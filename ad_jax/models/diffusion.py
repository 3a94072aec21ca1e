"""What the entries of a plan are, and diffusion over them: how they are hidden, and found again a little at a time.

An entry is one observation. Two kinds, with the same functions:

    Masked    whole numbers: an entry is the number of its observation among all that the spec allows, and diffusion
              hides it behind an absorbing mask. Sources: Austin et al. 2021 (D3PM, arXiv 2107.03006), section 3;
              Sahoo et al. 2024 (MDLM, arXiv 2406.07524), section 3
    Gaussian  real numbers, to which noise is added. Source: Ho et al. 2020 (DDPM, arXiv 2006.11239), with the cosine
              schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672), section 3.2

Levels of noise go from 0, the plan itself, to 1, where nothing of it is left. What is given (the observation of now,
waypoints, a goal) is never noised, in training or in acting: to the network it has level 0.

Letters: B plans, H entries of each, n components of a real entry, V values of a whole one.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, Key

from ad_jax.types import Array, Steps

LARGEST = 4096  # V: each is a row of the network's table, and a column of its head
GIVEN = 0.1  # share of real entries that training gives beside the first: waypoints
CLOSE = math.cos(0.5 * math.pi * 0.9999)  # the signal at level 1, whose square roots must not be 0


class Noised(NamedTuple):
    """Plans as the network sees them, and how much what it says of each entry counts in the loss."""

    entries: Array  # [B, H] int32, V where hidden; [B, H, n] float32
    level: Array  # [B, H] or [B, H, n] float32
    weight: Array  # the same shape


@dataclasses.dataclass(frozen=True)
class Masked:
    """Whole observations of components with so many `values` each; together V."""

    values: tuple[int, ...]

    shape = ()

    @property
    def size(self) -> int:
        """V, the logits of an entry."""
        return math.prod(self.values)

    def of(self, steps: Steps) -> Int32[Array, "*B"]:
        """Return the numbers of what is seen."""
        seen = steps.observation
        return self.number(seen.reshape(*steps.prev_done.shape, len(self.values)))

    def number(self, observation: Array) -> Int32[Array, "*B"]:
        """Return the numbers of observations `[*B, components]`, row-major."""
        strides = np.cumprod((1, *self.values[:0:-1]), dtype=np.int32)[::-1].copy()
        strides = jnp.asarray(strides).reshape((1,) * (observation.ndim - 1) + (-1,))
        return jnp.sum(observation.astype(jnp.int32) * strides, axis=-1)

    def known(self, goal: Float32[Array, "*B components"]) -> tuple[Int32[Array, "*B"], Bool[Array, "*B"]]:
        """Return goals as entries, and which of them are known: all."""
        entries = self.number(goal)
        return entries, jnp.ones(entries.shape, jnp.bool_)

    def near(
        self, entry: Int32[Array, "*B"], other: Int32[Array, "*B"], known: Bool[Array, "*B"], tolerance: float
    ) -> Bool[Array, "*B"]:
        """Whether entries are the same."""
        return entry == other

    def noised(
        self, key: jax.Array, entries: Int32[Array, "B H"], part: Int32[Array, "B H"], first: Bool[Array, "B H"]
    ) -> Noised:
        """Hide entries for training; the key is consumed.

        Args:
            key: decides which.
            entries: plans, several of which may lie in a row one after another.
            part: which plan of its row an entry belongs to.
            first: where a plan begins: given, never hidden.

        Of the f entries of a plan that are not given, m are hidden, m uniform in 1..f, all subsets of that size alike,
        and count f / m each. So the expected loss of a plan is the sum over m of 1 / m times the expected cross-entropy
        of the hidden ones: the continuous-time bound on -log p(plan | first) with its integral over the level done.
        """
        free = ~first
        key_rank, key_count = jax.random.split(key)
        mine = (part[:, :, None] == part[:, None, :]) & free[:, None, :]
        many = mine.sum(-1, dtype=jnp.int32)  # f
        drawn = jax.random.uniform(key_count, entries.shape, jnp.float32)
        drawn = jnp.take_along_axis(drawn, part, axis=1)  # one number for each plan: there are fewer than entries
        count = 1 + jnp.floor(drawn * many.astype(jnp.float32)).astype(jnp.int32)
        count = jnp.minimum(count, jnp.maximum(many, 1))
        order = jax.random.uniform(key_rank, entries.shape, jnp.float32)
        rank = (mine & (order[:, None, :] < order[:, :, None])).sum(-1, dtype=jnp.int32)
        hidden = free & (rank < count)
        weight = jnp.where(hidden, many.astype(jnp.float32) / count.astype(jnp.float32), 0.0)
        return Noised(jnp.where(hidden, self.size, entries), hidden.astype(jnp.float32), weight)

    def loss(self, outputs: Float32[Array, "B H V"], noised: Noised, entries: Int32[Array, "B H"]) -> jax.Array:
        """Return the bound on the negative log-likelihood, in nats an entry, those given among them; `[]`."""
        log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), entries[..., None], axis=-1)[..., 0]
        return -jnp.sum(noised.weight * log_p) / jnp.float32(entries.size)

    def renoised(
        self,
        keys: Key[Array, " B"],
        plan: Int32[Array, "B H"],
        free: Bool[Array, "B H"],
        lost: Bool[Array, "B H"],
        level: Float32[Array, " B"],
    ) -> Int32[Array, "B H"]:
        """Hide a share `level` of the free entries of each plan, and all that are `lost`; one key a row."""
        rank = _ranks(keys, free)
        count = jnp.ceil(level * free.sum(-1).astype(jnp.float32) - 1e-4).astype(jnp.int32)
        return jnp.where(free & (lost | (rank < count[:, None])), self.size, plan)

    def levels(self, plan: Int32[Array, "B H"], free: Bool[Array, "B H"], level: Float32[Array, " B"]) -> jax.Array:
        """Return what the network is told of each entry's level, `[B, H]`."""
        return (plan == self.size).astype(jnp.float32)

    def denoised(
        self,
        keys: Key[Array, " B"],
        outputs: Float32[Array, "B H V"],
        plan: Int32[Array, "B H"],
        free: Bool[Array, "B H"],
        left: Int32[Array, " B"],
        steps: int,
        temperature: float,
        least: int,
    ) -> Int32[Array, "B H"]:
        """Find hidden entries, as many as are left over the passes that are `left`, at random which; one key a row.

        With as many passes as entries that is one at a time: the exact sampler of the continuous-time process, whose
        entries come in a random order (Zheng et al. 2024, arXiv 2409.02908, section 4). `least` is the fewest passes
        that a plan takes: for no more entries than that makes at once are numbers drawn, which cost as much as a
        quarter of a pass where they were drawn for all.
        """
        hidden = plan == self.size
        rank = _ranks(jax.vmap(jax.random.fold_in, (0, None))(keys, 0), hidden)
        count = -(-hidden.sum(-1, dtype=jnp.int32) // jnp.maximum(left, 1))
        turn = jnp.arange(-(-(plan.shape[1] - 1) // least), dtype=jnp.int32)[None]
        at = jnp.argmax(rank[:, :, None] == turn[:, None], axis=1).astype(jnp.int32)
        logits = jnp.take_along_axis(outputs, at[..., None], axis=1) / jnp.float32(temperature)
        drawn = jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), logits)
        found = jnp.where(turn < count[:, None], drawn.astype(jnp.int32), jnp.take_along_axis(plan, at, axis=1))
        return plan.at[jnp.arange(len(plan), dtype=jnp.int32)[:, None], at].set(found)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Real observations of n numbers, or what the step's extra `name` holds, divided by `scale`."""

    n: int
    name: str | None = None
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an entry."""
        return (self.n,)

    @property
    def size(self) -> int:
        """Numbers of the network for an entry: what it is without noise."""
        return self.n

    def of(self, steps: Steps) -> Float32[Array, "*B n"]:
        """Return what is seen, or told beside it."""
        seen = steps.observation if self.name is None else steps.extra[self.name]
        return seen.reshape(*steps.prev_done.shape, self.n).astype(jnp.float32) / jnp.float32(self.scale)

    def known(self, goal: Float32[Array, "*B n"]) -> tuple[Float32[Array, "*B n"], Bool[Array, "*B n"]]:
        """Return goals as entries, and which of their numbers are known: those that are not NaN."""
        known = ~jnp.isnan(goal)
        return jnp.where(known, goal / jnp.float32(self.scale), 0.0), known

    def near(
        self, entry: Float32[Array, "*B n"], other: Float32[Array, "*B n"], known: Bool[Array, "*B n"], tolerance: float
    ) -> Bool[Array, "*B"]:
        """Whether entries are at most `tolerance` apart in the numbers that are known."""
        apart = jnp.where(known, entry - other, 0.0)
        return jnp.sum(apart**2, axis=-1) <= jnp.float32(tolerance**2)

    def noised(
        self, key: jax.Array, entries: Float32[Array, "B H n"], part: Int32[Array, "B H"], first: Bool[Array, "B H"]
    ) -> Noised:
        """Add noise for training, of one level in each plan; as `Masked.noised`.

        Given are a plan's first entry, half of the time its last, and some in between, as in acting; half of those that
        are given are so in some of their numbers alone.
        """
        key_level, key_noise, key_given, key_part = jax.random.split(key, 4)
        drawn = jax.random.uniform(key_level, part.shape, jnp.float32)
        level = jnp.take_along_axis(drawn, part, axis=1)[..., None]
        last = jnp.concatenate([part[:, 1:] != part[:, :-1], jnp.ones_like(first[:, :1])], axis=1)
        chance = jax.random.uniform(key_given, entries.shape[:2], jnp.float32)
        given = chance < jnp.where(last, 0.5, GIVEN)
        whole, of_each = jax.random.bernoulli(key_part, 0.5, (2, *entries.shape))
        given = first[..., None] | (given[..., None] & (whole[..., :1] | of_each))
        level = jnp.where(given, 0.0, level)
        signal, noise = _schedule(level)
        drawn = jax.random.normal(key_noise, entries.shape, jnp.float32)
        return Noised(signal * entries + noise * drawn, level, (~given).astype(jnp.float32))

    def loss(self, outputs: Float32[Array, "B H n"], noised: Noised, entries: Float32[Array, "B H n"]) -> jax.Array:
        """Return the mean squared error of the noised numbers, `[]`: the simplified loss, which is no bound."""
        error = noised.weight * (outputs - entries) ** 2
        return jnp.sum(error) / jnp.maximum(jnp.sum(noised.weight), 1.0)

    def renoised(
        self,
        keys: Key[Array, " B"],
        plan: Float32[Array, "B H n"],
        free: Bool[Array, "B H n"],
        lost: Bool[Array, "B H"],
        level: Float32[Array, " B"],
    ) -> Float32[Array, "B H n"]:
        """Add noise of the plan's `level` to its free numbers; one key a row. What is `lost` was filled before."""
        signal, noise = _schedule(level[:, None, None])
        drawn = jax.vmap(lambda key: jax.random.normal(key, plan.shape[1:], jnp.float32))(keys)
        return jnp.where(free, signal * plan + noise * drawn, plan)

    def levels(self, plan: Float32[Array, "B H n"], free: Bool[Array, "B H n"], level: Float32[Array, " B"]) -> Array:
        """Return what the network is told of each number's level, `[B, H, n]`."""
        return jnp.where(free, level[:, None, None], 0.0)

    def denoised(
        self,
        keys: Key[Array, " B"],
        outputs: Float32[Array, "B H n"],
        plan: Float32[Array, "B H n"],
        free: Bool[Array, "B H n"],
        left: Int32[Array, " B"],
        steps: int,
        temperature: float,
        least: int,
    ) -> Float32[Array, "B H n"]:
        """Go down one of `steps` levels with `left` to go, by the posterior of DDPM with its noise times a
        temperature; one key a row.
        """
        now = left.astype(jnp.float32)[:, None, None] / steps
        (signal, noise), (kept, less) = _schedule(now), _schedule(jnp.maximum(now - 1 / steps, 0.0))
        spread = less / noise * jnp.sqrt(jnp.maximum(1 - (signal / kept) ** 2, 0.0))
        direction = (plan - signal * outputs) / noise
        mean = kept * outputs + jnp.sqrt(jnp.maximum(less**2 - spread**2, 0.0)) * direction
        drawn = jax.vmap(lambda key: jax.random.normal(key, plan.shape[1:], jnp.float32))(keys)
        return jnp.where(free, mean + jnp.float32(temperature) * spread * drawn, plan)


Entries = Masked | Gaussian


def _schedule(level: Float32[Array, "..."]) -> tuple[Float32[Array, "..."], Float32[Array, "..."]]:
    """Return what signal and noise are multiplied by: squares sum to 1."""
    angle = 0.5 * math.pi * level
    return jnp.maximum(jnp.cos(angle), CLOSE), jnp.sin(angle)


def _ranks(keys: Key[Array, " B"], among: Bool[Array, "B H"]) -> Int32[Array, "B H"]:
    """Return the place of each entry in a random order in which those `among` are first; one key a row.

    By comparing each with each: for so few, a sixth of the time that sorting takes.
    """
    order = jax.vmap(lambda key: jax.random.uniform(key, among.shape[1:], jnp.float32))(keys)
    order, index = jnp.where(among, order, 2.0), jnp.arange(among.shape[1], dtype=jnp.int32)
    mine, other = order[:, :, None], order[:, None]
    before = (other < mine) | ((other == mine) & (index[None, None] < index[None, :, None]))
    return before.sum(-1, dtype=jnp.int32)
