"""XLand-MiniGrid (`xminigrid`): find out in a grid of objects what the goal is, and by which rules objects are made.

The task is a ruleset, made by `rulesets.py` without a download, and with `layout="task"` also where walls and objects
lie, while the agent starts each episode on a free cell drawn anew. With `layout="episode"` all of the layout is drawn
anew in each episode, as in the library's own training and its published histories.

What is seen is the library's view, `view` cells a side before the agent as kind and color of each, and kind and color
of what the agent holds, which the library itself does not show. Neither place nor direction is seen. Six actions:
forward, right, left, pick up, put down, toggle. The goal pays 1 - 0.9 * (steps taken / `steps`) and ends the episode.

The library reads the ruleset from its own state, into which a reset copies it; here it is put there at each step from
the task, which alone holds it.

Source: Nikulin et al. 2023 (arXiv 2312.12044), github.com/dunnolab/xland-minigrid.
"""

import dataclasses
import functools
from importlib import import_module
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from ad_jax.envs.outside import rulesets
from ad_jax.envs.outside.base import Outside, Params
from ad_jax.envs.outside.libraries import named
from ad_jax.errors import ConfigError, unknown
from ad_jax.keys import a_key
from ad_jax.types import Array, PyTree

OBJECTS = len(rulesets.TILES) * len(rulesets.COLORS)


@dataclasses.dataclass(frozen=True)
class XMiniGrid(Outside):
    """What the environments of xminigrid share."""

    library = named("xland")
    view: int = 5  # cells a side, odd

    def known(self) -> list[str]:
        return list(import_module("xminigrid").registered_environments())

    def make(self) -> Any:
        """Return environment and parameters. The limit is given: the library's own is that of another size, now and
        then, and rewards depend on it.
        """
        if self.view < 3 or self.view % 2 == 0:
            raise ConfigError(f"env.view must be odd and at least 3; got {self.view}")
        env, params = import_module("xminigrid").make(self.env_id)
        return env, params.replace(max_steps=self.steps, view_size=self.view)

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        env, params = self.inner
        moved = env.step(params, inner, action)
        return moved, moved.reward, moved.discount == 0  # at the time limit it is 1

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return inner.observation, inner.state.agent.pocket

    def values(self) -> PyTree:
        """Kind and color, of which the library has 13 and 12."""
        return (np.array([13, 12]), np.array([13, 12]))

    def actions(self) -> spaces.Discrete:
        env, params = self.inner
        return spaces.Discrete(env.num_actions(params))


@dataclasses.dataclass(frozen=True)
class XLand(XMiniGrid):
    """XLand-MiniGrid: find out what the goal among many objects is, and by which rules objects are made.

    Raises:
        ConfigError: for goals that there are not, or more objects than there are kinds of, or than the grid has cells.
    """

    env_id: str = "XLand-MiniGrid-R1-9x9"
    steps: int = 80
    layout: Literal["task", "episode"] = "task"
    goals: tuple[str, ...] = ("hold", "near", "together")
    rules: int = 0  # length of the chain of rules that makes the object of the goal
    distractors: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(self.goals))
        for goal in self.goals:
            if goal not in rulesets.GOALS:
                raise unknown("value of env.goals", goal, rulesets.GOALS)
        if not self.goals or min(self.rules, self.distractors) < 0:
            raise ConfigError(
                "expected env.goals of at least one kind, env.rules and env.distractors of at least 0; got "
                f"{self.goals}, {self.rules} and {self.distractors}"
            )
        if (count := 2 + 2 * self.rules + self.distractors) > OBJECTS:
            raise ConfigError(f"env.rules and env.distractors need {count} different objects; there are {OBJECTS}")
        super().__post_init__()
        _, params = self.inner
        lying, cells = 2 + self.rules + self.distractors, (params.height - 2) * (params.width - 2)
        if lying + 1 > cells / 2:
            raise ConfigError(f"env.rules and env.distractors put {lying} objects into {cells} cells of {self.env_id}")

    def known(self) -> list[str]:
        return [name for name in super().known() if name.startswith("XLand")]

    @property
    def start_varies(self) -> bool:
        return True

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        env, params = self.inner
        key_layout, key_place, key_direction, key = jax.random.split(key, 4)
        if self.layout == "task":
            key_layout = a_key(task.values["level"])
        begun = env.reset(params.replace(ruleset=_lying(task)), key_layout)
        state = begun.state.replace(key=key)
        if self.layout == "task":
            grid = import_module("xminigrid.core.grid")
            place = grid.sample_coordinates(key_place, state.grid, 1)[0]
            direction = grid.sample_direction(key_direction)
            state = state.replace(agent=state.agent.replace(position=place, direction=direction))
        look = import_module("xminigrid.core.observation").transparent_field_of_view
        seen = look(state.grid, state.agent, self.view, self.view)
        return begun.replace(state=state, observation=seen)

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        goal, rules = task.values["goal"], task.values["rules"]
        inner = inner.replace(state=inner.state.replace(goal_encoding=goal, rule_encoding=rules))
        moved, reward, terminated = super().move(key, inner, action, task)
        held = moved.state.replace(goal_encoding=jnp.zeros_like(goal), rule_encoding=jnp.zeros_like(rules))
        return moved.replace(state=held), reward, terminated

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Draw n rulesets, and a level for the layout of each where that is part of the task."""
        key_rules, key_level = jax.random.split(key)
        made = rulesets.drawn(key_rules, n, self.goals, self.rules, self.distractors)
        level = {"level": jax.random.bits(key_level, (n,), jnp.uint32)} if self.layout == "task" else {}
        return self._tasks(n, made._asdict() | level)

    def describe(self, task: Params) -> str:
        where = f"; layout {np.asarray(task.values['level'])}" if self.layout == "task" else ""
        return rulesets.in_words(task.values["goal"], task.values["rules"]) + where

    @property
    def _defaults(self) -> dict[str, Array]:
        return self._one

    @functools.cached_property
    def _one(self) -> dict[str, Array]:
        """The values of some task, on the host."""
        with jax.ensure_compile_time_eval():
            drawn = self.sample_tasks(a_key(0), 1).values
        return {name: np.asarray(value)[0] for name, value in drawn.items()}


def _lying(task: Params) -> Any:
    """Return the library's ruleset of a task, of which a reset needs what lies around and nothing else."""
    goal, rules = (jnp.zeros_like(task.values[name]) for name in ("goal", "rules"))
    ruleset = import_module("xminigrid.types").RuleSet
    return ruleset(goal=goal, rules=rules, init_tiles=task.values["init_tiles"])
