"""What sources with several actors share: starting them, and letting all of them act side by side."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from flax import struct

from ad_jax.envs.base import Outcome, TaskFamily, advance, reset
from ad_jax.types import PyTree, Transition


@struct.dataclass
class State:
    """An on-policy learner between two updates, with all of its actors."""

    params: PyTree
    opt_state: optax.OptState
    env_state: struct.PyTreeNode  # [actors, ...]
    observation: jax.Array  # [actors, *O]


def reset_actors(family: TaskFamily, key: jax.Array, task: PyTree, actors: int) -> tuple[jax.Array, struct.PyTreeNode]:
    """Observations `[actors, *O]` and states `[actors, ...]` of new episodes. The key is consumed."""
    return jax.vmap(lambda key: reset(family, key, task))(jax.random.split(key, actors))


class Acted(NamedTuple):
    """Some steps of every actor.

    Attributes:
        env_state: the next state of each actor, `[actors, ...]`.
        observation: its next observation, `[actors, *O]`.
        stream: the transitions, `[steps, actors, ...]`.
        states: the states acted from, `[steps, actors, ...]`.
        outcomes: what each action led to, before any reset, `[steps, actors, ...]`.
    """

    env_state: struct.PyTreeNode
    observation: jax.Array
    stream: Transition
    states: struct.PyTreeNode
    outcomes: Outcome


def act(
    family: TaskFamily,
    task: PyTree,
    choose: Callable[[struct.PyTreeNode, jax.Array, PyTree], jax.Array],
    env_state: struct.PyTreeNode,
    observation: jax.Array,
    noise: PyTree,
    keys: jax.Array,
) -> Acted:
    """Let every actor take some steps.

    Args:
        family: of the task.
        task: one for all actors.
        choose: `(env_state [actors, ...], observation [actors, *O], noise [actors, ...]) -> action [actors, *A]`.
        env_state: `[actors, ...]`.
        observation: `[actors, *O]`.
        noise: `[steps, actors, ...]`, a pytree; what `choose` gets at each step. All random numbers are drawn before,
            because splitting keys step by step would cost more than acting.
        keys: `[steps, actors]`, for the environment.
    """

    def step(carry, random):
        env_state, observation = carry
        noise, keys = random
        action = choose(env_state, observation, noise)
        go = jax.vmap(lambda key, state, action: advance(family, key, state, action, task))
        next_observation, next_state, outcome = go(keys, env_state, action)
        return (next_state, next_observation), (observation, action, env_state, outcome)

    (env_state, observation), taken = jax.lax.scan(step, (env_state, observation), (noise, keys))
    before, action, states, outcomes = taken
    return Acted(env_state, observation, outcomes.transition(before, action), states, outcomes)


def as_seen(view: Callable[[PyTree, jax.Array], jax.Array], acted: Acted) -> tuple[Transition, jax.Array]:
    """Return what a network learns from: the transitions with observations as `view` shows them, and what they led to.

    That stands beside the transitions, not in them.
    """
    look = jax.vmap(jax.vmap(view))
    seen = look(acted.states, acted.stream.observation)
    stream = acted.stream.replace(observation=seen, next_observation=None)
    return stream, look(acted.outcomes.next_state, acted.outcomes.next_observation)
