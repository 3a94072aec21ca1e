"""What sources with several actors share: starting them, and letting all of them act side by side."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from ad_jax.envs.base import TaskFamily, advance
from ad_jax.types import Transition


def reset_actors(family: TaskFamily, key: jax.Array, task: Any, actors: int) -> tuple[jax.Array, struct.PyTreeNode]:
    """Observations `[actors, *O]` and states `[actors, ...]` of new episodes. The key is consumed."""
    return jax.vmap(family.reset_env, in_axes=(0, None))(jax.random.split(key, actors), task)


def act(
    family: TaskFamily,
    task: Any,
    choose: Callable[[jax.Array, Any], jax.Array],
    env_state: struct.PyTreeNode,
    observation: jax.Array,
    noise: Any,
    keys: jax.Array,
) -> tuple[struct.PyTreeNode, jax.Array, Transition, jax.Array]:
    """Some steps of every actor.

    Args:
        family: of the task.
        task: one for all actors.
        choose: `(observation [actors, *O], noise [actors, ...]) -> action [actors]` int32.
        env_state: `[actors, ...]`.
        observation: `[actors, *O]`.
        noise: `[steps, actors, ...]`, a pytree; what `choose` gets at each step. All random numbers are drawn before,
            because splitting keys step by step would cost more than acting.
        keys: `[steps, actors]`, for the environment.

    Returns:
        The next state and observation of each actor, the transitions `[steps, actors, ...]`, and what each action led
        to, before any reset, `[steps, actors, *O]`.
    """

    def step(carry, random):
        env_state, observation = carry
        noise, keys = random
        action = choose(observation, noise)
        go = jax.vmap(lambda key, state, action: advance(family, key, state, action, task))
        next_observation, env_state, outcome = go(keys, env_state, action)
        transition = Transition(observation, action, outcome.reward, outcome.terminated, outcome.truncated)
        return (env_state, next_observation), (transition, outcome.next_observation)

    (env_state, observation), (stream, reached) = jax.lax.scan(step, (env_state, observation), (noise, keys))
    return env_state, observation, stream, reached
