"""Synchronous advantage actor-critic: many actors, one learner, one gradient step per update.

The loss is A3C's (Mnih et al. 2016, arXiv 1602.01783, section 4 and algorithm S3): policy gradient, value error and
entropy bonus on a network that shares all but its output layers. Advantages are generalized (Schulman et al. 2016,
arXiv 1506.02438, equation 16). The defaults are those of the source of Laskin et al. 2022 (arXiv 2210.14215, appendix):
100 actors, lambda .95, discount .99, entropy .01, MLP of 3 x 128, Adam with learning rate 1e-4 and epsilon 1e-6. The
unroll, the value cost and the clipping here are not theirs.

Deliberate differences from A3C: actors step together and one averaged gradient is taken (so there are `actors` times
fewer updates per environment step, and a larger learning rate is apt); the sums over an unroll are means; a truncated
episode bootstraps from the observation it was cut at, a terminated one does not. With `privileged`, the network sees
the family's `source_observation`s; histories hold the plain observations all the same.
"""

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
from ad_jax.types import PyTree, Spec, Transition


@struct.dataclass
class ActorCritic(SourceConfig):
    """Options of actor-critic; floats are leaves, sizes are static."""

    learning_rate: float = 1e-4
    adam_epsilon: float = 1e-6
    discount: float = 0.99  # per step
    trace_decay: float = 0.95  # lambda of the generalized advantage
    entropy_cost: float = 0.01
    value_cost: float = 0.5
    max_grad_norm: float | None = None  # of the whole gradient (global norm); None does not clip
    actors: int = struct.field(pytree_node=False, default=100)
    unroll: int = struct.field(pytree_node=False, default=20)  # steps of each actor per update
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(128, 128, 128))
    channels: tuple[int, ...] = struct.field(pytree_node=False, default=(16, 32, 32))  # of convolutions, for pixels
    privileged: bool = struct.field(pytree_node=False, default=False)  # is given state that the observation hides

    def make(self, family: TaskFamily) -> Source:
        """Return actor-critic on `family`.

        Raises:
            ConfigError: for a size below 1, or if `privileged` on a family that hides nothing.
        """
        for name, size in (("actors", self.actors), ("unroll", self.unroll), *layer_sizes(self)):
            if size < 1:
                raise ConfigError(f"source.{name} must be at least 1; got {size}")
        actors, unroll = self.actors, self.unroll
        spec, view = source_view(family, self.privileged)
        look, actions = jax.vmap(view), distribution(spec.action)

        def init(key, task):
            key_network, key_env = jax.random.split(key)
            params = init_policy(key_network, spec, self.channels, self.hidden, actions.outputs) | actions.init()
            observation, env_state = reset_actors(family, key_env, task, actors)
            return State(params, optimizer(self).init(params), env_state, observation)

        def update(key, state, task):
            key_act, key_env = jax.random.split(key)
            noise = actions.noise(key_act, (unroll, actors))
            keys = jax.random.split(key_env, (unroll, actors))

            def choose(env_state, observation, noise):
                output, _ = policy(state.params, spec, look(env_state, observation))
                return actions.draw(state.params, output, noise)

            acted = act(family, task, choose, state.env_state, state.observation, noise, keys)
            gradient = jax.grad(loss)(state.params, self, spec, *as_seen(view, acted))
            params, opt_state = descend(optimizer(self), gradient, state.params, state.opt_state)
            return State(params, opt_state, acted.env_state, acted.observation), acted.stream

        return Source(init, update, steps_per_update=unroll, actors=actors)


def optimizer(config: ActorCritic) -> optax.GradientTransformation:
    """Adam, after clipping by the global norm where that is asked for."""
    return clipped_adam(config.learning_rate, config.adam_epsilon, config.max_grad_norm)


def loss(params: PyTree, config: ActorCritic, spec: Spec, stream: Transition, reached: jax.Array) -> jax.Array:
    """Return the actor-critic loss of one unroll, a scalar.

    Args:
        params: of `policy`.
        config: the hyper-parameters.
        spec: of what the network sees.
        stream: `[unroll, actors, ...]`, with observations as the network sees them.
        reached: `[unroll, actors, *O]`, likewise, what each action led to, before any reset.
    """
    shape = stream.reward.shape

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    actions = distribution(spec.action)
    output, value = policy(params, spec, flat(stream.observation))
    _, ahead = policy(jax.lax.stop_gradient(params), spec, flat(reached))
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
    log_chosen = actions.log_prob(params, output, flat(stream.action))
    entropy = actions.entropy(params, output)
    value_error = 0.5 * (advantage + baseline - value) ** 2
    return jnp.mean(-log_chosen * advantage + config.value_cost * value_error - config.entropy_cost * entropy)
