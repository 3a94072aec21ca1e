"""The limit of an in-context learner of Dark Room: it knows the room, and of the goal that each cell is as likely.

It searches along one walk that is planned for all tasks before the first step, and from the goal's first reward on it
takes the shortest way there and stays. Nothing can be inferred before that reward but where the goal is not, so the
best walk and then the best way are the best that any learner can do, averaged over all goals.

Not proved the best walk: beam search finds it, and `search_plan.bounds` says by how much any other could be better.
`docs/limits.md` has both numbers. In some rooms they are equal (9x9 from the centre, paid once); at 9x9, 20 steps, paid
on every step the walk sums to 1623.4 of at most 1624.4 in 100 episodes.

What the walk maximises is the sum of returns over `episodes` episodes, not each of them: an explorer with one episode
to live would search otherwise. It counts on its own actions being taken; other ones are not searched from again.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES, cells, towards
from ad_jax.errors import ConfigError
from ad_jax.models.base import Model
from ad_jax.models.scripted import NEVER, scripted
from ad_jax.models.search_plan import Room, plan
from ad_jax.types import Spec

ROOM = ("size", "steps", "start", "reward")  # what the family knows


@dataclasses.dataclass(frozen=True)
class Config:
    """The room, which an experiment takes from its family, and the search for the walk."""

    size: int | None = None
    steps: int | None = None
    start: Literal["centre", "corner", "random"] | None = None
    reward: Literal["every_step", "once", "terminate"] | None = None
    episodes: int = 100  # of a life: over which returns are summed
    beam: int = 2000  # walks that are carried on; the plan takes a second at 9x9, a few at 17x17

    def for_family(self, family: Any) -> "Config":
        """The config with the room of `family`.

        Raises:
            ConfigError: if that is no Dark Room, or another room than the config's.
        """
        same = isinstance(family, DarkRoom) and type(family).step_env is DarkRoom.step_env
        if not (same and type(family).reset_env is DarkRoom.reset_env):
            raise ConfigError(
                f"the explorer knows Dark Room, its moves and one hidden goal; got {family!r}. Use env=dark_room or "
                "env=dark_room_hard, or another model"
            )
        for name in ROOM:
            if getattr(self, name) not in (None, getattr(family, name)):
                raise ConfigError(
                    f"model.{name}={getattr(self, name)!r} is not the room's: env.{name}={getattr(family, name)!r}. "
                    f"Leave model.{name} out"
                )
        return dataclasses.replace(self, **{name: getattr(family, name) for name in ROOM})

    def validate(self) -> None:
        """Raises ConfigError for a room that cannot be planned for."""
        for name in ROOM:
            if getattr(self, name) is None:
                raise ConfigError(f"the explorer needs model.{name}; an experiment takes it from env, here set it")
        if self.start == "random":
            raise ConfigError(
                "the explorer plans walks from one start; got start='random'. Use env.start=centre or env.start=corner"
            )
        if self.reward == "terminate":
            raise ConfigError(
                "the explorer plans for episodes that go on at the goal; got reward='terminate'. Use env.reward=once, "
                "which pays the same returns, or env.reward=every_step"
            )
        for name in ("size", "steps", "episodes", "beam"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1; got {getattr(self, name)}")

    @property
    def room(self) -> Room:
        """What the plan is made for."""
        self.validate()
        assert self.size is not None and self.steps is not None and self.start is not None and self.reward is not None
        return Room(self.size, self.steps, self.start, self.reward)


class Life(NamedTuple):
    """What is known of B lives, `[B]` int32 each."""

    cell: jax.Array  # where the last action was taken
    goal: jax.Array  # the cell that has paid, or -1
    episode: jax.Array  # finished ones, up to the number that is planned
    step: jax.Array  # of this episode, from 0


walk = functools.cache(plan)  # a room is planned once in a process


def make(config: Config, spec: Spec) -> Model:
    """The explorer of `config`'s room. Plans its walk: seconds, on the host.

    Raises:
        ConfigError: if the room is one that it does not know, or not `spec`'s.
    """
    room = config.room
    expected = Spec(len(MOVES), (2,), (room.size, room.size))
    if spec != expected:
        raise ConfigError(f"the explorer of this room sees {expected}; got {spec}. Set model.size to the room's")
    planned = walk(room, config.episodes, config.beam)
    # After the last planned episode: stay. A goal that can be reached has been found by then, or the horizon is over.
    actions = jnp.asarray(np.append(planned, np.zeros((1, room.steps), np.int32), axis=0))
    reached, table = jnp.asarray(room.reached, jnp.int32), jnp.asarray(cells(room.size))

    def init_cache(batch):
        zeros = jnp.zeros((batch,), jnp.int32)
        return Life(zeros, zeros - 1, zeros, zeros - 1)

    def decode(life, steps):
        # The cell that paid is the one that the action led to: at an episode's end, the observation is the next one's.
        paid = (steps.prev_reward > 0) & (steps.prev_action < len(MOVES)) & (life.goal < 0)
        goal = jnp.where(paid, reached[life.cell, jnp.minimum(steps.prev_action, len(MOVES) - 1)], life.goal)
        episode = jnp.minimum(life.episode + steps.prev_done.astype(jnp.int32), len(planned))
        step = jnp.where(steps.prev_done, 0, jnp.minimum(life.step + 1, room.steps - 1))
        position = jnp.asarray(steps.observation, jnp.int32)
        home = jax.vmap(towards)(position, table[goal])
        action = jnp.where(goal < 0, actions[episode, step], home)
        logits = jnp.where(jnp.arange(len(MOVES), dtype=jnp.int32)[None] == action[:, None], 0.0, NEVER)
        return logits, Life(position[:, 0] * room.size + position[:, 1], goal, episode, step)

    return scripted(init_cache, decode)
