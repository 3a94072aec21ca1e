"""Deep Q-learning with Q(lambda) targets: many actors, each with its own epsilon, and a replay of their steps.

Sources: Mnih et al. 2015 (Nature 518) for replay and target network; Peng and Williams 1996 (Machine Learning 22) for
the targets; van Hasselt et al. 2016 (arXiv 1509.06461) for the action in them; Horgan et al. 2018 (arXiv 1803.00933)
for the actors' epsilons, `epsilon ** (1 + spread * i / (actors - 1))`. It stands for the distributed "DQN (Q-lambda)"
that is the source of Laskin et al. 2022 (arXiv 2210.14215) on Watermaze; of its settings the paper states 16 actors,
batches of 8 sequences of 40 steps, and discount .9.

Deliberate differences: actors and learner take turns, so a lifetime is reproducible; sequences start anywhere and are
drawn uniformly, without priorities; the error is squared and the whole gradient clipped, instead of the error; traces
are not cut at exploring actions (Peng, not Watkins); a truncated episode bootstraps from the observation it was cut at,
for which the replay holds both ends of every step. `q_values` is the one place that knows how observations are encoded.

With `decorrelation` the loss asks that the features below the last layer vary apart from each other (`decorrelation`).
"""

import math

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.envs.base import TaskFamily, source_view, spec_of
from ad_jax.errors import ConfigError
from ad_jax.sources.actors import act, reset_actors
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.sources.convolutions import init_convolutions
from ad_jax.sources.decorrelation import covariances
from ad_jax.sources.networks import (
    clipped_adam,
    descend,
    features,
    init_hidden,
    layer,
    layer_sizes,
    linear,
    num_features,
    through,
)
from ad_jax.sources.returns import q_lambda
from ad_jax.types import PyTree, Spec, Transition, Tree, discrete


@struct.dataclass
class DQN(SourceConfig):
    """Options of DQN; floats are leaves, sizes are static."""

    learning_rate: float = 5e-4
    adam_epsilon: float = 1e-6
    discount: float = 0.99  # per step
    trace_decay: float = 0.8  # lambda of the targets
    epsilon: float = 0.4  # of the first actor
    epsilon_spread: float = 7.0  # how much less later actors explore; 0: all alike
    max_grad_norm: float | None = 10.0  # of the whole gradient (global norm); None does not clip
    decorrelation: float | None = None  # weight of the features' covariances in the loss; None: there is no such part
    actors: int = struct.field(pytree_node=False, default=16)
    unroll: int = struct.field(pytree_node=False, default=20)  # steps of each actor per update
    capacity: int = struct.field(pytree_node=False, default=5000)  # of the replay, in steps of each actor
    warmup: int = struct.field(pytree_node=False, default=200)  # steps of each actor, at random, before learning
    gradient_steps: int = struct.field(pytree_node=False, default=16)  # per update
    batch: int = struct.field(pytree_node=False, default=8)  # sequences
    sequence: int = struct.field(pytree_node=False, default=20)  # steps
    target_updates: int = struct.field(pytree_node=False, default=5)  # updates between copies to the target network
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    channels: tuple[int, ...] = struct.field(pytree_node=False, default=(16, 32, 32))  # of convolutions, for pixels

    def make(self, family: TaskFamily) -> Source:
        """Return DQN on `family`.

        Raises:
            ConfigError: for sizes that cannot be, or do not fit each other, or if actions are a Box.
        """
        discrete(family.action_spec, "source=dqn")
        _validate(self)
        actors, unroll = self.actors, self.unroll
        spec, _ = source_view(family, privileged=False)
        # The replay holds what is stored; pictures are made of it where the network looks.
        see = jax.vmap(family.render)

        def init(key, task):
            key_network, key_env = jax.random.split(key)
            params = init_q_values(key_network, spec, self.channels, self.hidden)
            observation, env_state = reset_actors(family, key_env, task, actors)
            replay = empty_replay(spec_of(family), self.capacity, actors)
            target = jax.tree.map(jnp.copy, params)
            return State(params, target, optimizer(self).init(params), env_state, observation, replay)

        def update(key, state, task):
            key_explore, key_which, key_env, key_learn = jax.random.split(key, 4)
            epsilon = jnp.where(state.replay.written < self.warmup, 1.0, epsilons(self))
            explore = jax.random.uniform(key_explore, (unroll, actors), jnp.float32) < epsilon[None]
            which = jax.random.randint(key_which, (unroll, actors), 0, spec.num_actions, jnp.int32)

            def choose(env_state, observation, noise):
                explore, which = noise
                return jnp.where(explore, which, jnp.argmax(q_values(state.params, spec, see(observation)), axis=1))

            keys = jax.random.split(key_env, (unroll, actors))
            acted = act(family, task, choose, state.env_state, state.observation, (explore, which), keys)
            stream, reached = acted.stream.replace(next_observation=None), acted.outcomes.next_observation
            seen = jax.vmap(lambda observation: last_features(state.params, spec, see(observation)))
            held = seen(acted.stream.observation)
            values = jax.vmap(lambda x: linear(state.params["head"], x))(held)
            told = acted.stream.replace(preferences=values, features=held)
            replay = add(state.replay, stream, reached)

            def learn(carry, key):
                params, opt_state = carry
                drawn, reached = sample(key, replay, self.batch, self.sequence)
                seen = drawn.replace(observation=jax.vmap(see)(drawn.observation))
                gradient = jax.grad(loss)(params, state.target, self, spec, seen, jax.vmap(see)(reached))
                return descend(optimizer(self), gradient, params, opt_state), None

            before = (state.params, state.opt_state)
            after, _ = jax.lax.scan(learn, before, jax.random.split(key_learn, self.gradient_steps))
            ready = replay.written >= max(self.warmup, self.sequence)
            params, opt_state = select(ready, after, before)
            copied = replay.written // unroll % self.target_updates == 0
            target = select(copied, params, state.target)
            return State(params, target, opt_state, acted.env_state, acted.observation, replay), told

        return Source(init, update, steps_per_update=unroll, actors=actors)


@struct.dataclass
class Replay:
    """The last steps of each actor: a ring, in order of time."""

    stream: Transition  # [capacity, actors, ...]
    reached: jax.Array  # [capacity, actors, *O], what each action led to, before any reset
    written: jax.Array  # [] int32, steps so far


@struct.dataclass
class State:
    """A learner between two updates."""

    params: PyTree
    target: PyTree
    opt_state: optax.OptState
    env_state: struct.PyTreeNode  # [actors, ...]
    observation: jax.Array  # [actors, *O]
    replay: Replay


def _validate(config: DQN) -> None:
    names = ("actors", "unroll", "gradient_steps", "batch", "sequence", "target_updates")
    for name, size in (*((n, getattr(config, n)) for n in names), *layer_sizes(config)):
        if size < 1:
            raise ConfigError(f"source.{name} must be at least 1; got {size}")
    if config.capacity % config.unroll or config.capacity < config.sequence:
        raise ConfigError(
            f"source.capacity must be a multiple of source.unroll={config.unroll} and at least "
            f"source.sequence={config.sequence}; "
            f"got {config.capacity}"
        )
    if isinstance(weight := config.decorrelation, int | float) and not 0 <= weight < math.inf:
        raise ConfigError(f"source.decorrelation must be at least 0 and finite, or None; got {weight}")


def optimizer(config: DQN) -> optax.GradientTransformation:
    """Adam, after clipping by the global norm where that is asked for."""
    return clipped_adam(config.learning_rate, config.adam_epsilon, config.max_grad_norm)


def epsilons(config: DQN) -> jax.Array:
    """How often each actor explores, `[actors]` float32."""
    place = jnp.arange(config.actors, dtype=jnp.float32) / max(config.actors - 1, 1)
    return jnp.asarray(config.epsilon, jnp.float32) ** (1.0 + config.epsilon_spread * place)


def init_q_values(key: jax.Array, spec: Spec, channels: tuple[int, ...], hidden: tuple[int, ...]) -> dict[str, PyTree]:
    """Parameters of `q_values`. The key is consumed."""
    *key_hidden, key_head = jax.random.split(key, len(hidden) + 1)
    inputs = num_features(spec, channels)
    head = layer(key_head, (inputs, *hidden)[-1], spec.num_actions, 1.0)
    convolutions = init_convolutions(jax.random.fold_in(key, 2**31), spec, channels)
    return {"convolutions": convolutions, "hidden": init_hidden(key_hidden, inputs, hidden), "head": head}


def q_values(params: dict[str, PyTree], spec: Spec, observation: jax.Array) -> jax.Array:
    """`[B, *O]` observations to action values `[B, A]`."""
    return linear(params["head"], last_features(params, spec, observation))


def last_features(params: dict[str, PyTree], spec: Spec, observation: jax.Array) -> jax.Array:
    """`[B, *O]` observations to what the last layer makes values of, `[B, F]`."""
    return through(params["hidden"], features(spec, observation, params["convolutions"]))


def loss(params: PyTree, target: PyTree, config: DQN, spec: Spec, stream: Transition, reached: jax.Array) -> jax.Array:
    """Half the mean squared error of the values of what was done, and what decorrelation adds: a scalar.

    Args:
        params: of `q_values`; they also choose the action whose value the target network gives.
        target: the target network's.
        config: the hyper-parameters.
        spec: of what the network sees.
        stream: sequences `[L, B, ...]`, with observations as the network sees them.
        reached: `[L, B, *O]`.
    """
    shape = stream.reward.shape

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    seen = last_features(params, spec, flat(stream.observation))
    value = chosen(linear(params["head"], seen), flat(stream.action))
    best = jnp.argmax(q_values(params, spec, flat(reached)), axis=1)
    ahead = chosen(q_values(target, spec, flat(reached)), best).reshape(shape)
    ends = (stream.terminated, stream.truncated)
    goal = q_lambda(stream.reward, ahead, *ends, config.discount, config.trace_decay)
    error = 0.5 * jnp.mean((jax.lax.stop_gradient(flat(goal)) - value) ** 2)
    return error if config.decorrelation is None else error + config.decorrelation * covariances(seen)


def chosen(values: jax.Array, action: jax.Array) -> jax.Array:
    """`[n]` of `values [n, A]`."""
    return jnp.take_along_axis(values, action[:, None], axis=1)[:, 0]


def empty_replay(spec: Spec, capacity: int, actors: int) -> Replay:
    """Return a replay of nothing; observations in the narrowest dtype."""
    rows = (capacity, actors)
    observation = jnp.zeros((*rows, *spec.shape), spec.observation_dtype)
    none = jnp.zeros(rows, bool)
    stream = Transition(observation, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.float32), none, none)
    return Replay(stream, observation, jnp.int32(0))


def add(replay: Replay, stream: Transition, reached: jax.Array) -> Replay:
    """`replay` with `stream [unroll, actors, ...]` in place of its oldest steps; the unroll divides the capacity."""
    steps, capacity = len(stream.action), len(replay.stream.action)
    at = replay.written % capacity

    def put(ring, x):
        return jax.lax.dynamic_update_slice_in_dim(ring, x.astype(ring.dtype), at, 0)

    ring, ends = jax.tree.map(put, (replay.stream, replay.reached), (stream, reached))
    return Replay(ring, ends, replay.written + steps)


def sample(key: jax.Array, replay: Replay, batch: int, length: int) -> tuple[Transition, jax.Array]:
    """Sequences `[length, batch, ...]` of consecutive steps of one actor each, uniform. The key is consumed."""
    capacity, actors = replay.stream.action.shape
    held = jnp.minimum(replay.written, capacity)
    # Both at once, which is half of the program. Places are counted from the oldest step, so that no sequence runs over
    # the place where old and new steps meet.
    most = jnp.stack([jnp.int32(actors), jnp.maximum(held - length, 0) + 1])
    draw = jax.vmap(lambda key, most: jax.random.randint(key, (batch,), 0, most, jnp.int32))
    actor, start = draw(jax.random.split(key), most)
    step = (replay.written - held + start[None] + jnp.arange(length, dtype=jnp.int32)[:, None]) % capacity

    def take(x):
        return x[step, actor[None]]

    stream, reached = jax.tree.map(take, (replay.stream, replay.reached))
    return stream, reached


def select(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
    """One of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
