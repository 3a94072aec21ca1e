"""Proximal policy optimization: many actors, several epochs of clipped gradient steps on each unroll.

Source: Schulman et al. 2017 (arXiv 1707.06347), algorithm 1 and equations 7 and 9; advantages are generalized (Schulman
et al. 2016, arXiv 1506.02438, equation 16). The defaults are close to those of table 3 (one actor's 2048 steps here are
16 actors' 128), with what later implementations found to matter and the paper does not state: advantages are
normalized in each minibatch, the whole gradient is clipped, the last layer of the policy starts small.

Deliberate differences: policy and value share their hidden layers, unless told otherwise (`value_layers`); the value's
error is not clipped; the trust region is the clip alone, without a Kullback-Leibler term; a truncated episode
bootstraps from the observation it was cut at, a terminated one does not.

Actions in a `Box` are drawn from a Gaussian and moved to the bounds (`actions.py`); all else is the same.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.envs.base import TaskFamily, source_view
from ad_jax.errors import ConfigError
from ad_jax.sources.actions import distribution
from ad_jax.sources.actors import State, act, as_seen, reset_actors
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.sources.networks import clipped_adam, descend, init_policy, layer_sizes, policy
from ad_jax.sources.returns import gae
from ad_jax.sources.shuffle import permutation
from ad_jax.types import PyTree, Spec, Transition


@struct.dataclass
class PPO(SourceConfig):
    """Options of PPO; floats are leaves, sizes are static."""

    learning_rate: float = 3e-4
    decay_updates: float | None = None  # the learning rate falls linearly to 0 over this many; None keeps it
    adam_epsilon: float = 1e-5
    discount: float = 0.99  # per step
    trace_decay: float = 0.95  # lambda of the generalized advantage
    clip: float = 0.2  # how far the ratio of probabilities may move from 1 with a gain
    entropy_cost: float = 0.0
    value_cost: float = 0.5
    max_grad_norm: float | None = 0.5  # of the whole gradient (global norm); None does not clip
    normalize: bool = struct.field(pytree_node=False, default=True)  # advantages, in each minibatch
    actors: int = struct.field(pytree_node=False, default=16)
    unroll: int = struct.field(pytree_node=False, default=128)  # steps of each actor per update
    epochs: int = struct.field(pytree_node=False, default=10)
    minibatches: int = struct.field(pytree_node=False, default=32)  # in an epoch; divides actors * unroll
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    channels: tuple[int, ...] = struct.field(pytree_node=False, default=(16, 32, 32))  # of convolutions, for pixels
    privileged: bool = struct.field(pytree_node=False, default=False)  # is given state that the observation hides
    # Hidden layers of the value; None: those of the policy, which says nothing, so directories keep their digests.
    value_layers: Literal["own"] | None = struct.field(pytree_node=False, default=None)

    def make(self, family: TaskFamily) -> Source:
        """Return PPO on `family`.

        Raises:
            ConfigError: for a size below 1, minibatches that do not divide the steps of an update, or if `privileged`
                on a family that hides nothing.
        """
        sizes = {name: getattr(self, name) for name in ("actors", "unroll", "epochs", "minibatches")}
        for name, size in (*sizes.items(), *layer_sizes(self)):
            if size < 1:
                raise ConfigError(f"source.{name} must be at least 1; got {size}")
        actors, unroll = self.actors, self.unroll
        spec, view = source_view(family, self.privileged)
        look, actions = jax.vmap(view), distribution(spec.action)
        if actors * unroll % self.minibatches:
            raise ConfigError(
                f"source.minibatches={self.minibatches} must divide source.actors * source.unroll = {actors * unroll}"
            )

        def init(key, task):
            key_network, key_env = jax.random.split(key)
            sizes, shared = (self.channels, self.hidden, actions.outputs), self.value_layers is None
            network = init_policy(key_network, spec, *sizes, shared)
            params = network | actions.init()
            observation, env_state = reset_actors(family, key_env, task, actors)
            return State(params, optimizer(self).init(params), env_state, observation)

        def update(key, state, task):
            key_act, key_env, key_learn = jax.random.split(key, 3)
            noise = actions.noise(key_act, (unroll, actors))
            keys = jax.random.split(key_env, (unroll, actors))

            def choose(env_state, observation, noise):
                output, _ = policy(state.params, spec, look(env_state, observation))
                return actions.draw(state.params, output, noise)

            acted = act(family, task, choose, state.env_state, state.observation, noise, keys)
            samples = samples_of(state.params, self, spec, *as_seen(view, acted))

            def minibatch(carry, samples):
                params, opt_state = carry
                gradient = jax.grad(loss)(params, self, spec, samples)
                return descend(optimizer(self), gradient, params, opt_state), None

            def epoch(carry, key):
                order = permutation(key, actors * unroll)

                def deal(x):
                    return x[order].reshape(self.minibatches, -1, *x.shape[1:])

                return jax.lax.scan(minibatch, carry, jax.tree.map(deal, samples))[0], None

            start = (state.params, state.opt_state)
            (params, opt_state), _ = jax.lax.scan(epoch, start, jax.random.split(key_learn, self.epochs))
            return State(params, opt_state, acted.env_state, acted.observation), acted.stream

        return Source(init, update, steps_per_update=unroll, actors=actors)


@struct.dataclass
class Samples:
    """Single steps, in any order, with what the policy that acted thought of them. Leaves are `[n, ...]`."""

    observation: jax.Array  # [n, *O]
    action: jax.Array  # [n, *A]
    log_prob: jax.Array  # [n] float32, of the action
    advantage: jax.Array  # [n] float32
    target: jax.Array  # [n] float32, what the value should have been


def optimizer(config: PPO) -> optax.GradientTransformation:
    """Adam, after clipping by the global norm; the learning rate may fall linearly to 0."""
    if config.decay_updates is None:
        return clipped_adam(config.learning_rate, config.adam_epsilon, config.max_grad_norm)
    steps = config.decay_updates * (config.epochs * config.minibatches)

    def rate(count: jax.Array) -> jax.Array:
        return config.learning_rate * jnp.maximum(1.0 - count / steps, 0.0)

    return clipped_adam(rate, config.adam_epsilon, config.max_grad_norm)


def samples_of(params: PyTree, config: PPO, spec: Spec, stream: Transition, reached: jax.Array) -> Samples:
    """Return the samples of one unroll, `[unroll * actors]`, under the policy that acted.

    Args:
        params: of `policy`, as they were while acting.
        config: the hyper-parameters.
        spec: of what the network sees.
        stream: `[unroll, actors, ...]`, with observations as the network sees them.
        reached: `[unroll, actors, *O]`, likewise, what each action led to, before any reset.
    """
    shape = stream.reward.shape

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    observation, action = flat(stream.observation), flat(stream.action)
    output, value = policy(params, spec, observation)
    _, ahead = policy(params, spec, flat(reached))
    ends = (stream.terminated, stream.truncated)
    advantage = flat(
        gae(
            stream.reward,
            value.reshape(shape),
            ahead.reshape(shape),
            *ends,
            config.discount,
            config.trace_decay,
        )
    )
    log_prob = distribution(spec.action).log_prob(params, output, action)
    return Samples(observation, action, log_prob, advantage, advantage + value)


def loss(params: PyTree, config: PPO, spec: Spec, samples: Samples) -> jax.Array:
    """Return the clipped loss of a minibatch, a scalar: equation 9 with its sign turned."""
    actions = distribution(spec.action)
    output, value = policy(params, spec, samples.observation)
    entropy = actions.entropy(params, output)
    advantage = samples.advantage
    if config.normalize:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = jnp.exp(actions.log_prob(params, output, samples.action) - samples.log_prob)
    held = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    gain = jnp.minimum(ratio * advantage, held * advantage)
    value_error = 0.5 * (samples.target - value) ** 2
    return jnp.mean(-gain + config.value_cost * value_error - config.entropy_cost * entropy)
