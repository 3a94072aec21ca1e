"""Synchronous advantage actor-critic: many actors, one learner, one gradient step per update.

The loss is A3C's (Mnih et al. 2016, arXiv 1602.01783, section 4 and algorithm S3): policy gradient, value error and
entropy bonus on a network that shares all but its output layers. Advantages are generalised (Schulman et al. 2016,
arXiv 1506.02438, equation 16). The defaults are those of the source of Laskin et al. 2022 (arXiv 2210.14215, appendix):
100 actors, lambda .95, discount .99, entropy .01, MLP of 3 x 128, Adam with learning rate 1e-4 and epsilon 1e-6. The
unroll, the value cost and the clipping here are not theirs.

Deliberate differences from A3C: actors step together and one averaged gradient is taken (so there are `actors` times
fewer updates per environment step, and a larger learning rate is apt); the sums over an unroll are means; a truncated
episode bootstraps from the observation it was cut at, a terminated one does not.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, seen_spec_of
from ad_jax.errors import ConfigError
from ad_jax.sources.base import Source
from ad_jax.types import Spec, Transition


@struct.dataclass
class Config:
    """Hyper-parameters; floats are leaves, sizes are static."""

    learning_rate: float = 1e-4
    adam_epsilon: float = 1e-6
    discount: float = 0.99  # per step
    trace_decay: float = 0.95  # lambda of the generalised advantage
    entropy_cost: float = 0.01
    value_cost: float = 0.5
    max_grad_norm: float | None = None  # of the whole gradient (global norm); None does not clip
    actors: int = struct.field(pytree_node=False, default=100)
    unroll: int = struct.field(pytree_node=False, default=20)  # steps of each actor per update
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(128, 128, 128))


@struct.dataclass
class State:
    """A learner between two updates."""

    params: Any
    opt_state: optax.OptState
    env_state: struct.PyTreeNode  # [actors, ...]
    observation: jax.Array  # [actors, *O]


def make(config: Config, family: TaskFamily) -> Source:
    """Actor-critic on `family`.

    Raises:
        ConfigError: for a size below 1.
    """
    for name, size in (("actors", config.actors), ("unroll", config.unroll), *(("hidden", h) for h in config.hidden)):
        if size < 1:
            raise ConfigError(f"actor_critic.{name} must be at least 1; got {size}")
    spec, actors, unroll = seen_spec_of(family), config.actors, config.unroll
    see = jax.vmap(family.render)

    def init(key, task):
        key_network, key_env = jax.random.split(key)
        params = init_network(key_network, num_features(spec), config.hidden, spec.num_actions)
        reset = jax.vmap(family.reset_env, in_axes=(0, None))
        observation, env_state = reset(jax.random.split(key_env, actors), task)
        return State(params, optimiser(config).init(params), env_state, observation)

    def update(key, state, task):
        # All random numbers of the update are drawn at once: per-step key splitting would cost more than acting.
        key_act, key_env = jax.random.split(key)
        noise = jax.random.gumbel(key_act, (unroll, actors, spec.num_actions))
        env_keys = jax.random.split(key_env, (unroll, actors))

        def step(carry, random):
            env_state, observation = carry
            noise, keys = random
            logits, _ = network(state.params, features(spec, see(observation)))
            action = jnp.argmax(logits + noise, axis=1).astype(jnp.int32)  # a draw from the softmax
            go = jax.vmap(lambda key, state, action: advance(family, key, state, action, task))
            next_observation, env_state, outcome = go(keys, env_state, action)
            done = (outcome.terminated, outcome.truncated)
            transition = Transition(observation, action, outcome.reward, *done)
            return (env_state, next_observation), (transition, outcome.next_observation)

        acted = jax.lax.scan(step, (state.env_state, state.observation), (noise, env_keys))
        (env_state, observation), (stream, reached) = acted
        gradient = jax.grad(loss)(state.params, config, spec, stream, reached, see)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes its int32 count with floats
            change, opt_state = optimiser(config).update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        return State(params, opt_state, env_state, observation), stream

    return Source(init, update, steps_per_update=unroll, actors=actors)


def optimiser(config: Config) -> optax.GradientTransformation:
    """Adam, after clipping by the global norm where that is asked for."""
    adam = optax.adam(config.learning_rate, eps=config.adam_epsilon)
    return adam if config.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def loss(
    params: Any,
    config: Config,
    spec: Spec,
    stream: Transition,
    reached: jax.Array,
    see: Callable[[jax.Array], jax.Array] = lambda observations: observations,
) -> jax.Array:
    """The actor-critic loss of one unroll, a scalar.

    Args:
        params: of `network`.
        config: the hyper-parameters.
        spec: of what the network sees.
        stream: `[unroll, actors, ...]`.
        reached: `[unroll, actors, *O]`, what each action led to, before any reset.
        see: stored observations `[B, *O]` as the network sees them.
    """
    shape = stream.reward.shape
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    logits, value = network(params, features(spec, see(flat(stream.observation))))
    _, ahead = network(jax.lax.stop_gradient(params), features(spec, see(flat(reached))))
    baseline = jax.lax.stop_gradient(value)
    advantage = flat(
        gae(
            stream.reward,
            baseline.reshape(shape),
            ahead.reshape(shape),
            stream.terminated,
            stream.truncated,
            config.discount,
            config.trace_decay,
        )
    )
    log_policy = jax.nn.log_softmax(logits)
    log_chosen = jnp.take_along_axis(log_policy, flat(stream.action)[:, None], axis=1)[:, 0]
    entropy = -jnp.sum(jnp.exp(log_policy) * log_policy, axis=1)
    value_error = 0.5 * (advantage + baseline - value) ** 2
    return jnp.mean(-log_chosen * advantage + config.value_cost * value_error - config.entropy_cost * entropy)


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: float | jax.Array,
    trace_decay: float | jax.Array,
) -> jax.Array:
    """Generalised advantages `[T, ...]` float32 of streams in which episodes end and start.

    Args:
        reward: `[T, ...]` float32.
        value: `[T, ...]` float32, of the observation acted on.
        next_value: `[T, ...]` float32, of the observation reached, before any reset.
        terminated: `[T, ...]` bool; nothing is bootstrapped from such a step.
        truncated: `[T, ...]` bool; the step bootstraps, and no later one counts.
        discount: per step.
        trace_decay: lambda.
    """
    error = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, discount * trace_decay)

    def back(later, step):
        error, decay = step
        advantage = error + decay * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(error[0]), (error, decay), reverse=True)[1]


def num_features(spec: Spec) -> int:
    """F, the width of `features`."""
    return spec.size if spec.values is None else sum(spec.values)


def features(spec: Spec, observation: jax.Array) -> jax.Array:
    """`[B, *O]` observations as `[B, F]` float32: one-hot per component for integers, else flattened.

    Pixels go from -0.5 to 0.5.
    """
    flat = observation.reshape(len(observation), -1)
    if spec.values is None:
        return flat.astype(jnp.float32) / 255 - 0.5 if spec.pixels else flat.astype(jnp.float32)
    return jnp.concatenate([jax.nn.one_hot(flat[:, i], n) for i, n in enumerate(spec.values)], axis=1)


def init_network(key: jax.Array, inputs: int, hidden: tuple[int, ...], num_actions: int) -> dict[str, Any]:
    """Parameters of `network`: a list of hidden layers and two heads. The key is consumed."""
    sizes = (inputs, *hidden)
    *key_hidden, key_policy, key_value = jax.random.split(key, len(hidden) + 2)
    return {
        "hidden": [layer(k, n, m, math.sqrt(2)) for k, n, m in zip(key_hidden, sizes, sizes[1:])],
        "policy": layer(key_policy, sizes[-1], num_actions, 0.01),  # close to uniform at first
        "value": layer(key_value, sizes[-1], 1, 1.0),
    }


def layer(key: jax.Array, inputs: int, outputs: int, gain: float) -> dict[str, jax.Array]:
    """A linear layer, normal with standard deviation `gain / sqrt(inputs)`. The key is consumed."""
    weight = gain / math.sqrt(inputs) * jax.random.normal(key, (inputs, outputs))
    return {"weight": weight, "bias": jnp.zeros(outputs, jnp.float32)}


def network(params: dict[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`[B, F]` features to logits `[B, A]` and values `[B]`."""
    linear = lambda layer, x: x @ layer["weight"] + layer["bias"][None]
    for hidden in params["hidden"]:
        x = jax.nn.relu(linear(hidden, x))
    return linear(params["policy"], x), linear(params["value"], x)[:, 0]
