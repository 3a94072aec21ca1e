"""The contract of a source algorithm, as checks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, reset, spec_of, take
from ad_jax.envs.stepping import is_key
from ad_jax.envs.stepping import step as step_once
from ad_jax.keys import a_key
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.testing.base import check_episodes, check_space, require, run_checks, same, types_of
from ad_jax.types import PyTree, Transition, discrete

TASKS = 3  # learners side by side
ACTORS = 4  # of each learner, whose streams are replayed
RESETS = 8192  # how often a task is reset to list its starts
REPLAYS = 4  # of one stream, with other keys; what they agree on does not depend on chance


def check_source(config: SourceConfig, family: TaskFamily) -> list[str]:
    """Check a source algorithm on one family. Takes seconds; small sizes in `config` make it faster.

    Args:
        config: the source, e.g. `QLearning()`.
        family: a family that the source accepts. The less in it is left to chance, the more is checked.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
    """
    return run_checks(f"source {type(config).__name__} on {family.name}", CHECKS, _Sample(family, config))


@dataclasses.dataclass
class _Sample:
    """A source on a family, and the streams of a few short lifetimes; made when first asked for."""

    family: TaskFamily
    config: SourceConfig

    @functools.cached_property
    def source(self) -> Source:
        return self.config.make(self.family)

    @functools.cached_property
    def tasks(self) -> PyTree:
        return self.family.sample_tasks(a_key(0), TASKS)

    @functools.cached_property
    def keys(self) -> jax.Array:
        return jax.random.split(a_key(1), TASKS)

    @functools.cached_property
    def updates(self) -> int:
        """Enough for two episodes and two updates."""
        return 2 + 2 * self.family.episode_length // self.source.steps_per_update

    def lifetime(self, config: PyTree, key: jax.Array, task: PyTree) -> Transition:
        """Return the streams of one learner, `[T, actors, ...]`."""
        source = config.make(self.family)
        key_init, key_updates = jax.random.split(key)

        def update(state, key):
            return source.update(key, state, task)

        keys = jax.random.split(key_updates, self.updates)
        _, streams = jax.lax.scan(update, source.init(key_init, task), keys)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), streams)

    @functools.cached_property
    def lifetimes(self) -> Transition:
        """`[TASKS, T, actors, ...]`, by one vmap over hyper-parameters, keys and tasks."""
        configs = jax.tree.map(lambda leaf: jnp.full(TASKS, leaf, jnp.float32), self.config)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(self.lifetime))(configs, self.keys, self.tasks))


def _types(s: _Sample) -> None:
    source, key, task = s.source, s.keys[0], take(s.tasks, 0)
    sizes = (source.steps_per_update, source.actors)
    require(
        all(isinstance(x, int) and x >= 1 for x in sizes),
        "whole steps_per_update and actors",
        sizes,
        "They are static.",
    )
    state = jax.eval_shape(source.init, key, task)
    after, stream = jax.eval_shape(source.update, key, state, task)
    before, now = types_of(state, weak=True), types_of(after, weak=True)
    require(before == now, f"the state of init, {before}", now, "Cast it: a change of type compiles update anew.")
    space, stated = s.family.observation_space(task), s.family.action_spec
    kinds = (
        (space.shape, space.dtype),
        (stated.shape, stated.compute_dtype),
        ((), np.float32),
        ((), np.bool_),
        ((), np.bool_),
    )
    leaves: list[PyTree] = [jax.ShapeDtypeStruct((*sizes, *shape), dtype) for shape, dtype in kinds]
    given = isinstance(stream, Transition) and stream.next_observation is not None
    rows = Transition(*leaves).replace(next_observation=leaves[0] if given else None)
    if isinstance(stream, Transition) and stream.preferences is not None:
        rows = rows.replace(preferences=jax.ShapeDtypeStruct((*sizes, discrete(stated).n), np.float32))
    if isinstance(stream, Transition) and stream.features is not None:
        rows = rows.replace(features=jax.ShapeDtypeStruct((*sizes, stream.features.shape[-1]), np.float32))
    require(
        isinstance(stream, Transition) and types_of(stream) == types_of(rows),
        f"transitions {types_of(rows)}",
        types_of(stream),
        "Return Transition [steps_per_update, actors, ...].",
    )


def _streams(s: _Sample) -> None:
    task, stream = take(s.tasks, 0), s.lifetimes

    def flat(x):
        return x.reshape(-1, *x.shape[3:])

    check_space(s.family.observation_space(task), flat(stream.observation), "observations")
    if stream.next_observation is not None:
        check_space(s.family.observation_space(task), flat(stream.next_observation), "next observations")
    check_space(s.family.action_space(task), flat(stream.action), "actions")
    terminated, truncated = (np.moveaxis(np.asarray(x), 1, -1) for x in (stream.terminated, stream.truncated))
    check_episodes(terminated, truncated, s.family.episode_length)


def _replays(s: _Sample) -> None:
    """Each actor's stream, alone, is one lifetime: its actions lead from each of its observations to the next."""
    small = spec_of(s.family).size <= 64
    begin_at = jax.jit(jax.vmap(functools.partial(reset, s.family), (0, None)))
    replay = jax.jit(jax.vmap(lambda *args: _replay(s.family, *args), (0, None, None, None, None, None)))
    for i in range(TASKS):
        task = take(s.tasks, i)
        starts = begin_at(jax.random.split(a_key(2), RESETS if small else 8), task)
        listed = None if any(map(is_key, jax.tree.leaves(starts))) else _list_starts(*jax.tree.map(np.asarray, starts))
        if listed is None:
            continue
        table, states = listed
        for actor in range(min(s.source.actors, ACTORS)):
            stream = take(s.lifetimes, (i, slice(None), actor))
            begin = np.append(True, np.asarray(stream.terminated | stream.truncated)[:-1])
            start = [table.get(x.tobytes(), -1) if b else 0 for x, b in zip(stream.observation, begin)]
            where = f"actor {actor} of learner {i}"
            require(
                min(start) >= 0,
                "every episode to begin where reset_env can begin",
                f"another start ({where})",
                "Step with ad_jax.envs.base.advance; carry state and observation across updates.",
            )
            keys = jax.random.split(a_key(3), REPLAYS)
            got = replay(keys, task, states, begin, np.array(start), stream.action)
            _compare(stream, tuple(map(np.asarray, got)), where)


def _list_starts(observation: np.ndarray, state: PyTree) -> tuple[dict[bytes, int], PyTree] | None:
    """Rows of the states that a task can start from, by observation; None where an observation leaves it open."""
    _, first, which = np.unique(
        observation.reshape(len(observation), -1), axis=0, return_index=True, return_inverse=True
    )
    told = all(np.array_equal(leaf[first][which.reshape(-1)], leaf) for leaf in jax.tree.leaves(state))
    seen_all = len(first) * 16 <= max(len(observation), 16)  # each start was met many times, so none was missed
    if not (told and seen_all):
        return None
    return {observation[row].tobytes(): i for i, row in enumerate(first)}, take(state, first)


def _replay(family, key, task, states, begin, start, action):
    """Return what follows each action of one stream: observation, reward, terminated, truncated, each `[T, ...]`."""

    def step(state, x):
        begin, start, action, key = x
        state = jax.tree.map(lambda now, fresh: jnp.where(begin, fresh[start], now), state, states)
        o = step_once(family, key, state, action, task)
        return o.next_state, (o.next_observation, o.reward, o.terminated, o.truncated)

    keys = jax.random.split(key, len(action))
    return jax.lax.scan(step, take(states, 0), (begin, start, action, keys))[1]


def _compare(stream: Transition, got: tuple[np.ndarray, ...], where: str) -> None:
    """Hold `stream` against what replays gave, `[REPLAYS, T, ...]`, in what they agree on."""
    observation, reward, terminated, truncated = got

    def certain(x):
        return np.array_equal(x, np.broadcast_to(x[:1], x.shape))

    remedy = "Store what the action was chosen from; keep actors apart and in order."
    if not certain(observation):  # what comes later depends on chance too
        return
    inside = ~(stream.terminated | stream.truncated)[:-1]
    follows = same(observation[0][:-1][inside], stream.observation[1:][inside])
    require(follows, f"each action to lead to the next observation ({where})", "another observation", remedy)
    replayed = {"reward": reward, "terminated": terminated, "truncated": truncated}
    if stream.next_observation is not None:
        replayed["next_observation"] = observation
    for name, x in replayed.items():
        fits = not certain(x) or same(x[0], getattr(stream, name))
        require(fits, f"the {name} of each action ({where})", "another", remedy)


def _leaves(s: _Sample) -> None:
    leaves = jax.tree.leaves(s.config)
    real = all(isinstance(leaf, float) or jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves)
    require(real, "floats for leaves", leaves, "Mark sizes struct.field(pytree_node=False).")
    _ = s.lifetimes  # sweeps every leaf; its values are compared in `_keys`


def _keys(s: _Sample) -> None:
    live = jax.jit(lambda key: s.lifetime(s.config, key, take(s.tasks, 0)))
    one, again, other = live(s.keys[0]), live(s.keys[0]), live(s.keys[1])
    require(same(one, again), "one lifetime a key", "two", "Use no randomness but the key's.")
    require(
        not np.array_equal(one.action, other.action), "another lifetime from another key", "the same", "Use the key."
    )
    require(
        same(one, take(s.lifetimes, 0)),
        "vmap over hyper-parameters, keys and tasks to equal a loop",
        "another lifetime",
        "Keep learners apart.",
    )


CHECKS = {
    "update keeps the state's types and returns Transition [steps, actors]": _types,
    "float hyper-parameters are leaves that vmap can sweep": _leaves,
    "streams are in the family's spaces and end their episodes as it does": _streams,
    "each actor's stream replays as one lifetime of the environment": _replays,
    "a lifetime depends on its hyper-parameters, key and task alone": _keys,
}
