"""A mixture over the return to come: how likely each return is, and what is done where it comes.

The outputs of one step are a logit for each of R returns, then what another head needs, R times, so

    p(a) = sum over returns r of p(r) exp(kappa x_r) p(a | r) / sum over r of p(r) exp(kappa x_r)

with x_r from 0, of the lowest return, to 1, of the highest. With kappa = 0 it is the distribution that was learned;
above, the actions of high returns count for more: that is how Multi-Game Decision Transformer acts as an expert.

Source: Lee et al. 2022 (arXiv 2205.15241), section 3.4.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32, Key, Num

from ad_jax.models.heads.base import Head
from ad_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Returns:
    """A distribution over actions, by way of the return that they lead to.

    Attributes:
        count: returns that are told apart, R.
        action: what is done where a return comes, the head of the actions.
        kappa: how much more the highest return counts than the lowest, as the logarithm of a factor.
    """

    count: int
    action: Head
    kappa: float = 0.0

    @property
    def size(self) -> int:
        """See `Head`."""
        return self.count * (1 + self.action.size)

    def split(
        self, outputs: Float32[Array, "*B size"]
    ) -> tuple[Float32[Array, "*B R"], Float32[Array, "*B R action_size"]]:
        """Return the logits of the returns as they were learned, and the outputs for each return's action."""
        returns, actions = jnp.split(outputs, [self.count], axis=-1)
        return returns, actions.reshape(*outputs.shape[:-1], self.count, self.action.size)

    def tilted(self, returns: Float32[Array, "*B R"]) -> Float32[Array, "*B R"]:
        """Return log-probabilities of the returns, the high ones preferred as `kappa` says."""
        better = self.kappa * jnp.linspace(0.0, 1.0, self.count, dtype=jnp.float32)
        return jax.nn.log_softmax(returns + better.reshape(*(1,) * (returns.ndim - 1), -1))

    def log_prob_of_both(
        self, outputs: Float32[Array, "*B size"], place: Int32[Array, "*B"], action: Num[Array, "..."]
    ) -> Float32[Array, "*B"]:
        """Return the log-probability, as it was learned, of a return 0..R-1 and of an action where it comes."""
        returns, actions = self.split(outputs)
        likely = jnp.take_along_axis(jax.nn.log_softmax(returns), place[..., None], axis=-1)[..., 0]
        return likely + self.action.log_prob(_picked(actions, place), action)

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Num[Array, "..."]) -> Float32[Array, "*B"]:
        """See `Head`; summed over returns."""
        returns, actions = self.split(outputs)
        every = jnp.broadcast_to(
            jnp.expand_dims(target, returns.ndim - 1),
            (*returns.shape, *target.shape[returns.ndim - 1 :]),
        )
        return jax.nn.logsumexp(self.tilted(returns) + self.action.log_prob(actions, every), axis=-1)

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0
    ) -> Num[Array, "B *S"]:
        """See `Head`; the return is drawn as it is likely, the action at the temperature."""
        returns, actions = self.split(outputs)
        both = jax.vmap(jax.random.split)(keys)
        place = jax.vmap(jax.random.categorical)(both[:, 0], self.tilted(returns))
        return self.action.sample(_picked(actions, place), both[:, 1], temperature)

    def greedy(self, outputs: Float32[Array, "*B size"]) -> Num[Array, "..."]:
        """See `Head`; what is taken where the likeliest return comes."""
        returns, actions = self.split(outputs)
        return self.action.greedy(_picked(actions, jnp.argmax(self.tilted(returns), axis=-1)))

    def highest(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B"]:
        """See `Head`; the largest sum of a return's logit and of an action's where it comes."""
        returns, actions = self.split(outputs)
        return (returns + self.action.highest(actions)).max(axis=-1)


def _picked(actions: Float32[Array, "*B R size"], place: Array) -> Float32[Array, "*B size"]:
    """Return the outputs of one return's action."""
    return jnp.take_along_axis(actions, place[..., None, None], axis=-2)[..., 0, :]
