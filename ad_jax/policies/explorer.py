"""The limit of an in-context learner of Dark Room: it knows the room, and of the goal that each cell is as likely.

It searches along one walk that is planned for all tasks before the first step, and from the goal's first reward on it
takes the shortest way there and stays. Nothing can be inferred before that reward but where the goal is not, so the
best walk and then the best way are the best that any learner can do, averaged over all goals.

Not proved the best walk: beam search finds it, and `search_plan.bounds` says by how much any other could be better.
`docs/limits.md` has both numbers. In some rooms they are equal (9x9 from the center, paid once); at 9x9, 20 steps, paid
on every step the walk sums to 1623.4 of at most 1624.4 in 100 episodes.

What the walk maximizes is the sum of returns over `episodes` episodes, not each of them: an explorer with one episode
to live would search otherwise. It counts on its own actions being taken; other ones are not searched from again.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, seen_spec_of
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES, cells, toward
from ad_jax.errors import ConfigError
from ad_jax.policies.base import Mode, Policy, PolicyConfig
from ad_jax.policies.search_plan import Room, plan
from ad_jax.types import Discrete, Spec


@dataclasses.dataclass(frozen=True)
class Explorer(PolicyConfig):
    """Options of the explorer: the search for the walk."""

    episodes: int = 100  # of a lifetime: over which returns are summed
    beam: int = 2000  # walks that are carried on; the plan takes a second at 9x9, a few at 17x17

    def validate(self) -> None:
        """Raise ConfigError where no walk can be looked for."""
        for name in ("episodes", "beam"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1; got {getattr(self, name)}")

    def make(self, family: TaskFamily, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the explorer of `family`'s room, which draws nothing: mode and temperature change nothing.

        Plans its walk: seconds, on the host.

        Raises:
            ConfigError: if the family is no room that it knows, or there is nothing to search with.
        """
        room = room_of(family)
        self.validate()
        planned = walk(room, self.episodes, self.beam)
        # After the last planned episode: stay. A goal that can be reached has been found by then, or the horizon is
        # over.
        actions = jnp.asarray(np.append(planned, np.zeros((1, room.steps), np.int32), axis=0))
        reached, table = jnp.asarray(room.reached, jnp.int32), jnp.asarray(cells(room.size))

        def init(batch):
            def at(value):
                return jnp.full((batch,), value, jnp.int32)

            return Lifetime(cell=at(0), goal=at(-1), episode=at(0), step=at(-1))

        def act(params, lifetime, steps, keys):
            # The cell that paid is the one that the action led to: at an episode's end, the observation is the next
            # one's.
            paid = (steps.prev_reward > 0) & (steps.prev_action < len(MOVES)) & (lifetime.goal < 0)
            goal = jnp.where(
                paid, reached[lifetime.cell, jnp.minimum(steps.prev_action, len(MOVES) - 1)], lifetime.goal
            )
            episode = jnp.minimum(lifetime.episode + steps.prev_done.astype(jnp.int32), len(planned))
            step = jnp.where(steps.prev_done, 0, jnp.minimum(lifetime.step + 1, room.steps - 1))
            position = jnp.asarray(steps.observation, jnp.int32)
            home = jax.vmap(toward)(position, table[goal])
            action = jnp.where(goal < 0, actions[episode, step], home)
            return action, Lifetime(position[:, 0] * room.size + position[:, 1], goal, episode, step)

        return Policy(init, act)


class Lifetime(NamedTuple):
    """What is known of B lifetimes, `[B]` int32 each."""

    cell: jax.Array  # where the last action was taken
    goal: jax.Array  # the cell that has paid, or -1
    episode: jax.Array  # finished ones, up to the number that is planned
    step: jax.Array  # of this episode, from 0


walk = functools.cache(plan)  # a room is planned once in a process


def room_of(family: TaskFamily) -> Room:
    """Return the room that walks are planned for, which is all that the explorer knows of a task.

    Raises:
        ConfigError: if `family` is no Dark Room, or one that no walk can be planned for.
    """
    plain = type(family).step_env is DarkRoom.step_env and type(family).reset_env is DarkRoom.reset_env
    if not (isinstance(family, DarkRoom) and plain):
        raise ConfigError(
            f"the explorer knows Dark Room, its moves and one hidden goal; got {family!r}. Use env=dark_room or "
            "env=dark_room_hard, or another model"
        )
    if family.start == "random":
        raise ConfigError(
            "the explorer plans walks from one start; got start='random'. Use env.start=center or env.start=corner"
        )
    if family.reward == "terminate":
        raise ConfigError(
            "the explorer plans for episodes that go on at the goal; got reward='terminate'. Use env.reward=once, "
            "which pays the same returns, or env.reward=every_step"
        )
    expected, seen = Spec(Discrete(len(MOVES)), (2,), (family.size, family.size)), seen_spec_of(family)
    if seen != expected:
        raise ConfigError(f"the explorer sees its cell in the room, {expected}; {family.name} shows {seen}")
    return Room(family.size, family.steps, family.start, family.reward)
