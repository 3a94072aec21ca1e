"""The tokens of a step, predicted one after another: action, reward, end, return to come, next observation.

A backbone reads a step as it reads every step, in one piece, and its outputs h are what is known before the action.
From there on the tokens of the step come by the chain rule, each from h and from the tokens before it:

    p(action | h) p(reward | h, action) p(end | h, action, reward) p(next observation | h, action, reward)

the last component by component, where the episode goes on; and beside the end the return that is still to come, which
nothing is predicted from. Every token but the action of a `Box` is one of a number of values: whole observations are
their own, real numbers lie on a grid, between whose points a number is a weight on both neighbors, so that its mean is
the number itself.

So a planned step costs one step of the backbone, not one for each token. Letters: D hidden numbers of a token's stage.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float32, Int32, Num

from ad_jax.models.heads.unit import to_unit
from ad_jax.types import Array, Box, Spec

PARTITION = ((r"step_tokens/.*/(embedding|kernel|bias)", ()),)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Real numbers from `low` to `high` as weights on `bins` points, evenly spaced; what is outside is clipped."""

    low: float
    high: float
    bins: int

    @property
    def points(self) -> Float32[Array, " bins"]:
        """The numbers that the points stand for."""
        return jnp.linspace(self.low, self.high, self.bins, dtype=jnp.float32)

    def weights(self, x: Float32[Array, "*B"]) -> Float32[Array, "*B bins"]:
        """Return numbers as weights on the two nearest points, of sum 1."""
        place = (jnp.clip(x, self.low, self.high) - self.low) * ((self.bins - 1) / (self.high - self.low))
        point = jnp.arange(self.bins, dtype=jnp.float32).reshape(*(1,) * x.ndim, -1)
        return jnp.maximum(1 - jnp.abs(place[..., None] - point), 0)

    def mean(self, logits: Float32[Array, "*B bins"]) -> Float32[Array, "*B"]:
        """Return the expected number."""
        return jax.nn.softmax(logits) @ self.points

    def at(self, index: Int32[Array, "*B"]) -> Float32[Array, "*B"]:
        """Return the numbers of points."""
        return self.points[index]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What tokens there are.

    Attributes:
        spec: of observations and actions; no pixels.
        reward: grid of a reward.
        value: grid of the return to come after a step.
        observation: of real observations, the grid of each component; () where they are whole numbers.
        hidden: D.
    """

    spec: Spec
    reward: Grid
    value: Grid
    observation: tuple[Grid, ...]
    hidden: int

    @property
    def size(self) -> int:
        """Numbers of the backbone's outputs that the stages take, after the action's."""
        return (2 + self.spec.size) * self.hidden

    def inside(self, outputs: Float32[Array, "*B more"], stage: int) -> Float32[Array, "*B D"]:
        """Return what the backbone gives a stage: 0 is the reward's, 1 the end's, 2 + i that of component i."""
        return outputs[..., stage * self.hidden : (stage + 1) * self.hidden]

    def components(self, observation: Num[Array, "..."]) -> Num[Array, "*B n"]:
        """Return observations `[*B, *O]` component by component, int32 or float32."""
        lead = observation.ndim - len(self.spec.shape)
        return observation.reshape(*observation.shape[:lead], self.spec.size).astype(self.spec.compute_dtype)

    def whole(self, components: Num[Array, "*B n"]) -> Num[Array, "..."]:
        """Undo `components`."""
        return components.reshape(*components.shape[:-1], *self.spec.shape)


class Stage(nnx.Module):
    """One token from the outputs of the backbone and the tokens before it: a layer of D numbers, and logits."""

    def __init__(self, t: Tokens, before: int | None, outputs: int, *, rngs: nnx.Rngs):
        """`before` counts the components of the next observation that are known; None: not even the reward is."""

        def table(rows):
            return nnx.Embed(rows, t.hidden, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)

        def dense(inputs):
            return nnx.Linear(inputs, t.hidden, use_bias=False, kernel_init=nnx.initializers.normal(1.0), rngs=rngs)

        self.t, action = t, t.spec.action
        self.action = dense(action.size) if isinstance(action, Box) else table(action.n)
        self.reward = None if before is None else dense(t.reward.bins)
        for i in range(before or 0):
            setattr(
                self, f"next_{i}", dense(t.observation[i].bins) if t.spec.values is None else table(t.spec.values[i])
            )
        self.out = nnx.Linear(t.hidden, outputs, rngs=rngs)

    def __call__(self, inside, action, reward=None, known=()):
        """Return logits for what the backbone gives `inside [*B, D]`, `action [*B, *S]`, `reward [*B]` and the `known`
        components `[*B]` of the next observation.
        """
        box = self.t.spec.action
        x = inside + self.action(to_unit(box, action) if isinstance(box, Box) else action)
        if self.reward is not None:
            x = x + _embedded(self.reward, self.t.reward, reward)
        for i, one in enumerate(known):
            embed = getattr(self, f"next_{i}")
            x = x + (embed(one) if self.t.spec.values else _embedded(embed, self.t.observation[i], one))
        return self.out(jax.nn.relu(x)).astype(jnp.float32)


class StepTokens(nnx.Module):
    """All stages. Arguments are `[*B, ...]`, `more` the backbone's outputs after the action's.

    What lies on a grid is given as numbers, or, int32, as places of its points, which are looked up.
    """

    def __init__(self, t: Tokens, *, rngs: nnx.Rngs):
        self.t = t
        self.stage_reward = Stage(t, None, t.reward.bins, rngs=rngs)
        self.stage_end = Stage(t, 0, 1 + t.value.bins, rngs=rngs)
        for i in range(t.spec.size):
            outputs = t.observation[i].bins if t.spec.values is None else t.spec.values[i]
            setattr(self, f"stage_next_{i}", Stage(t, i, outputs, rngs=rngs))

    def reward(self, more: Float32[Array, "*#B more"], action: Num[Array, "..."]) -> Float32[Array, "*B bins"]:
        """Return the logits of the reward."""
        return self.stage_reward(self.t.inside(more, 0), action)

    def end(
        self, more: Float32[Array, "*#B more"], action: Num[Array, "..."], reward: Num[Array, "*B"]
    ) -> tuple[Float32[Array, "*B"], Float32[Array, "*B bins"]]:
        """Return the logit of the episode's end, and those of the return to come where it goes on."""
        found = self.stage_end(self.t.inside(more, 1), action, reward)
        return found[..., 0], found[..., 1:]

    def next(
        self,
        more: Float32[Array, "*#B more"],
        action: Num[Array, "..."],
        reward: Num[Array, "*B"],
        known: tuple[Num[Array, "*B"], ...],
    ) -> Float32[Array, "*B values"]:
        """Return the logits of the next observation's next component, of which the `known` ones come first."""
        stage = getattr(self, f"stage_next_{len(known)}")
        return stage(self.t.inside(more, 2 + len(known)), action, reward, known)


def _embedded(embed: nnx.Linear, grid: Grid, x: Array) -> Array:
    """Return what is made of numbers, or of places of points of their grid."""
    return embed.kernel[...][x] if jnp.issubdtype(x.dtype, jnp.integer) else embed(grid.weights(x))
