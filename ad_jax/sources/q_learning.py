"""Tabular Q-learning with annealed epsilon-greedy exploration (Watkins 1989), one table per learner.

For families with integer observations. One update is one `episode_length` of steps. A truncated episode still
bootstraps from the observation it was cut at; a terminated one does not. Ties are broken at random, so that an empty
table explores instead of repeating action 0. With `privileged`, rows of the table are the family's
`source_observation`s; histories hold the plain observations all the same.

With `explore="novel"`, an exploring action is uniform among those that, as far as this learner has seen, lead to where
no step of this episode has led (among all actions if there is none). It hardly walks back or stands still then, and
finds a goal in a dark room twice as often as chance does. Where an episode starts no step has led yet: to stay there,
or to come back once, is novel, since only what a step leads to is rewarded. Novelty within an episode as a reason to
explore: Badia et al. 2020 (arXiv 2002.06038), who add it to the reward of a deep learner; the tabular rule here is
ours.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, reset, source_view
from ad_jax.keys import halves
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.types import discrete


@struct.dataclass
class QLearning(SourceConfig):
    """Options of Q-learning; floats are leaves."""

    learning_rate: float = 0.5
    discount: float = 0.9  # per step
    epsilon_start: float = 1.0
    epsilon_end: float = 0.0
    exploration_episodes: float = 280.0  # of full length, over which epsilon falls; 0: epsilon_end from the second on
    initial_value: float = 0.0  # of the whole table; above what can be earned, it drives the learner to the untried
    explore: Literal["uniform", "novel"] = struct.field(pytree_node=False, default="uniform")
    privileged: bool = struct.field(pytree_node=False, default=False)  # is given state that the observation hides

    def make(self, family: TaskFamily) -> Source:
        """Return Q-learning on `family`.

        Raises:
            TypeError: if observations are not integers.
            ConfigError: if `privileged` on a family that hides nothing, or if actions are a Box.
        """
        discrete(family.action_spec, "source=q_learning")
        spec, view = source_view(family, self.privileged)
        if spec.values is None:
            kind = "pixels" if spec.pixels else "real ones"
            raise TypeError(f"q_learning needs integer observations; {family.name} has {kind}. Try source=actor_critic")
        strides = [math.prod(spec.values[i + 1 :]) for i in range(len(spec.values))]
        cells, steps = math.prod(spec.values), family.episode_length

        def cell_of(env_state, observation):
            observation = view(env_state, observation)
            return jnp.sum(observation.reshape(-1).astype(jnp.int32) * jnp.array(strides, jnp.int32))

        def init(key, task):
            observation, env_state = reset(family, key, task)
            table = jnp.full((cells, spec.num_actions), self.initial_value, jnp.float32)
            memory = remember_nothing(cells, spec.num_actions) if self.explore == "novel" else None
            return State(table, env_state, observation, jnp.int32(0), memory)

        def update(key, state, task):
            fraction = jnp.minimum(
                state.updates.astype(jnp.float32) / jnp.maximum(self.exploration_episodes, 1e-9), 1.0
            )
            epsilon = self.epsilon_start + fraction * (self.epsilon_end - self.epsilon_start)

            # One random word a step, all drawn at once: its upper half decides whether to explore, its lower which
            # action. More words, or keys split step by step, would cost more than the learning.
            key_action, key_env = jax.random.split(key)
            chance, which = halves(jax.random.bits(key_action, (steps,), jnp.uint32))
            explore = chance < epsilon
            env_keys = jax.random.split(key_env, steps)

            def step(carry, random):
                table, env_state, observation, action, memory = carry
                explore, which, key_env = random
                cell = cell_of(env_state, observation)
                next_observation, env_state, outcome = advance(family, key_env, env_state, action, task)
                after = cell_of(outcome.next_state, outcome.next_observation)
                ahead = best_of(table[after])
                held = table[cell]
                target = outcome.reward + self.discount * jnp.where(outcome.terminated, 0.0, ahead)
                table = table.at[cell, action].add(self.learning_rate * (target - table[cell, action]))
                transition = outcome.transition(observation, action).replace(preferences=held)
                cell_next = cell_of(env_state, next_observation)
                if memory is not None:
                    memory = remember(memory, cell, action, after, outcome.done)
                next_action = choose(table[cell_next], explore, which, novelty(memory, cell_next))
                return (table, env_state, next_observation, next_action, memory), transition

            # A step ends by choosing the next action, because what the loop carries is computed once: chosen where it
            # is used, XLA would choose it anew for each of its four uses (1.3 times the time of the whole update).
            cell = cell_of(state.env_state, state.observation)
            first = choose(state.table[cell], explore[0], which[0], novelty(state.memory, cell))

            def later(x):
                return jnp.roll(x, -1)

            start = (state.table, state.env_state, state.observation, first, state.memory)
            end, stream = jax.lax.scan(step, start, (later(explore), later(which), env_keys))
            table, env_state, observation, _, memory = end
            one_actor = jax.tree.map(lambda x: x[:, None], stream)
            return State(table, env_state, observation, state.updates + 1, memory), one_actor

        return Source(init, update, steps_per_update=steps, actors=1)


class Memory(struct.PyTreeNode):
    """Where actions have led, and where steps of this episode have led."""

    after: jax.Array  # [cells, A] int32, the cell that came after; `cells` where the action was never taken
    reached: jax.Array  # [cells + 1] int32, the last episode of which a step led there; the last cell is nowhere
    episode: jax.Array  # [] int32, counts from 1


@struct.dataclass
class State:
    """A learner between two updates."""

    table: jax.Array  # [cells, A] float32
    env_state: struct.PyTreeNode
    observation: jax.Array
    updates: jax.Array  # [] int32
    memory: Memory | None  # only to explore what is novel


def best_of(values):
    """Return the largest of `values [A]`. As A scalars it joins the operations around it; a reduction would not."""
    return functools.reduce(jnp.maximum, values)


def choose(values, explore, which, novel=None):
    """Return an action, uniform among the best of `values [A]` or, to explore, among the `novel` ones, if any, or all.

    `which` is uniform in [0, 1).
    """
    best = best_of(values)
    eligible = [explore | (value == best) for value in values]
    if novel is not None:
        any_novel = functools.reduce(jnp.logical_or, novel)
        eligible = [jnp.where(explore & any_novel, new, e) for new, e in zip(novel, eligible, strict=True)]
    rank = (which * sum(x.astype(jnp.float32) for x in eligible)).astype(jnp.int32)
    action, before = jnp.int32(0), jnp.int32(0)
    for a, is_eligible in enumerate(eligible):
        action = jnp.where(is_eligible & (before == rank), a, action)
        before += is_eligible.astype(jnp.int32)
    return action


def remember_nothing(cells: int, actions: int) -> Memory:
    """Before the first step."""
    return Memory(jnp.full((cells, actions), cells, jnp.int32), jnp.zeros(cells + 1, jnp.int32), jnp.int32(1))


def remember(memory: Memory, cell, action, after, done) -> Memory:
    """After a step that led from `cell` to `after`, and ended the episode if `done`."""
    reached = memory.reached.at[after].set(memory.episode)
    return Memory(memory.after.at[cell, action].set(after), reached, memory.episode + done.astype(jnp.int32))


def novelty(memory: Memory | None, cell) -> list[jax.Array] | None:
    """Of each action in `cell`, whether it may lead to where no step of this episode has led; `[]` bool each."""
    if memory is None:
        return None
    return [episode != memory.episode for episode in memory.reached[memory.after[cell]]]
