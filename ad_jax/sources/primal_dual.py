"""Primal-dual pi learning: policy and value as the two players of the linear program that Bellman's equation is.

The program is: the least (1 - discount) E_q[V(s)], over where episodes start, so that no action's one-step advantage,
A = r + discount V(s') - V(s), is above 0. V descends its Lagrangian, and the multipliers of the advantages, which are
mu(s, a) = xi(s) pi(a|s), ascend it:

    min_V max_pi  (1 - discount) E_q[V(s)] + E_{s ~ xi, a ~ pi}[A]

Source: Cho and Wang 2017 (arXiv 1712.02467), after Wang 2017 (arXiv 1710.06100), who has tables. Two things stand, as
the abstract says, between that and networks. The distribution xi over states cannot be computed: here it is that of the
states in which the actors were, by the policy b that acted there. And what is no longer linear does not settle: a
penalty on squared advantages holds V. As xi is where b goes, E_q[V] (1 - discount) is E_b[V(s) - discount V(s')] (the
step of Kostrikov et al. 2019, arXiv 1912.05032, section 4), so with rho = pi / b each step of an unroll gives

    min_V max_pi  (rho - 1) A + penalty / 2 A^2

and what pi ascends is at rho = 1 the policy gradient of one-step actor-critic. The value's part differs from temporal
differences: both ends of a step move, and once pi is not b any more, V falls where pi expects to gain.

Deliberate differences, and what is not known. That step is exact where states are weighted by the discount of their
time; actors visit them unweighted. Only the abstract was at hand, and the form of the penalty is derived
here. Of an unroll `epochs` steps of Adam are taken, with all of its steps at once; at 1 it is on-policy and the first
part is 0. The entropy bonus is ours. Policy and value share no hidden layers, since they play against each other. A
truncated episode bootstraps from the observation it was cut at. With `privileged`, both see the family's
`source_observation`s; histories hold the plain observations all the same.
"""

import math
from collections.abc import Hashable

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
from ad_jax.types import PyTree, Spec, Transition


@struct.dataclass
class PrimalDual(SourceConfig):
    """Options of primal-dual pi learning; floats are leaves, sizes are static."""

    learning_rate: float = 1e-3  # of the policy, the dual player
    value_learning_rate: float = 1e-3  # of the value, the primal one
    adam_epsilon: float = 1e-6
    discount: float = 0.99  # per step
    penalty: float = 1.0  # weight of half the squared advantage; 0: the Lagrangian alone
    entropy_cost: float = 0.01
    max_grad_norm: float | None = None  # of each player's whole gradient (global norm); None does not clip
    actors: int = struct.field(pytree_node=False, default=16)
    unroll: int = struct.field(pytree_node=False, default=20)  # steps of each actor per update
    epochs: int = struct.field(pytree_node=False, default=4)  # gradient steps per update, each with all of its steps
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))  # of either player; none: tables
    channels: tuple[int, ...] = struct.field(pytree_node=False, default=(16, 32, 32))  # of convolutions, for pixels
    privileged: bool = struct.field(pytree_node=False, default=False)  # is given state that the observation hides

    def make(self, family: TaskFamily) -> Source:
        """Return primal-dual pi learning on `family`.

        Raises:
            ConfigError: for a size below 1, a penalty below 0, or if `privileged` on a family that hides nothing.
        """
        sizes = {name: getattr(self, name) for name in ("actors", "unroll", "epochs")}
        for name, size in (*sizes.items(), *layer_sizes(self)):
            if size < 1:
                raise ConfigError(f"source.{name} must be at least 1; got {size}")
        if isinstance(weight := self.penalty, int | float) and not 0 <= weight < math.inf:
            raise ConfigError(f"source.penalty must be at least 0 and finite; got {weight}")
        actors, unroll = self.actors, self.unroll
        spec, view = source_view(family, self.privileged)
        look, actions = jax.vmap(view), distribution(spec.action)

        def init(key, task):
            key_network, key_env = jax.random.split(key)
            network = init_policy(key_network, spec, self.channels, self.hidden, actions.outputs, shared=False)
            params = network | actions.init()
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
            stream, reached = as_seen(view, acted)
            behaved = log_chosen(state.params, spec, stream)

            def epoch(carry, _):
                params, opt_state = carry
                gradient = jax.grad(loss)(params, self, spec, stream, reached, behaved)
                return descend(optimizer(self), gradient, params, opt_state), None

            start = (state.params, state.opt_state)
            (params, opt_state), _ = jax.lax.scan(epoch, start, length=self.epochs)
            return State(params, opt_state, acted.env_state, acted.observation), acted.stream

        return Source(init, update, steps_per_update=unroll, actors=actors)


def optimizer(config: PrimalDual) -> optax.GradientTransformation:
    """Adam for each player, after clipping by the global norm of its own gradient where that is asked for."""
    rates = {"policy": config.learning_rate, "value": config.value_learning_rate}
    players: dict[Hashable, optax.GradientTransformation] = {
        name: clipped_adam(rate, config.adam_epsilon, config.max_grad_norm) for name, rate in rates.items()
    }
    return optax.partition(players, whose)


def whose(params: PyTree) -> PyTree:
    """Name the player of each parameter; convolutions, which both look through, move with the policy's."""
    names = {part: "value" if part.startswith("value") else "policy" for part in params}
    return {part: jax.tree.map(lambda _, name=names[part]: name, leaves) for part, leaves in params.items()}


def log_chosen(params: PyTree, spec: Spec, stream: Transition) -> jax.Array:
    """Return how likely the policy was to do what was done, in nats, `[unroll * actors]` float32.

    Args:
        params: of `policy`.
        spec: of what the network sees.
        stream: `[unroll, actors, ...]`, with observations as the network sees them.
    """
    output, _ = policy(params, spec, flat(stream.observation))
    return distribution(spec.action).log_prob(params, output, flat(stream.action))


def loss(
    params: PyTree, config: PrimalDual, spec: Spec, stream: Transition, reached: jax.Array, behaved: jax.Array
) -> jax.Array:
    """Return a scalar whose gradient is a step down for both players: each takes the other's part as it is.

    Args:
        params: of `policy`, policy and value apart.
        config: the hyper-parameters.
        spec: of what the network sees.
        stream: `[unroll, actors, ...]`, with observations as the network sees them.
        reached: `[unroll, actors, *O]`, likewise, what each action led to, before any reset.
        behaved: `[unroll * actors]`, `log_chosen` of the policy that acted.
    """
    actions, fixed = distribution(spec.action), jax.lax.stop_gradient
    output, value = policy(params, spec, flat(stream.observation))
    _, ahead = policy(params, spec, flat(reached))
    advantage = flat(stream.reward) + config.discount * jnp.where(flat(stream.terminated), 0.0, ahead) - value
    ratio = jnp.exp(actions.log_prob(params, output, flat(stream.action)) - behaved)
    dual = ratio * fixed(advantage)
    primal = (fixed(ratio) - 1.0) * advantage + config.penalty * 0.5 * advantage**2
    return jnp.mean(primal - dual - config.entropy_cost * actions.entropy(params, output))


def flat(x: jax.Array) -> jax.Array:
    """`[unroll, actors, ...]` as `[unroll * actors, ...]`."""
    return x.reshape(-1, *x.shape[2:])
