"""A point mass on a square table: find, by trial, where the reward is and how the body answers to forces.

The task is a goal, drawn uniformly from a ring around the center, the body's mass and the friction of the table; none
of the three is observed. An observation is where the body is and how fast it moves, an action the force on it, between
-1 and 1 along each axis. Each step is `SUBSTEPS` semi-implicit Euler steps of

    velocity' = (force * FORCE - friction * velocity) / mass        position' = velocity

The table is -1..1 along each axis; who reaches its edge stays there, and loses the velocity across it. Every episode
starts at rest, at a place drawn uniformly from a square around the center, by default the whole table, and has `steps`
steps. The reward of a step is exp(-distance / `width`), of the distance to the goal after it: at most 1, above 0
everywhere. With `reward="near"` it is 1 within `width` of the goal and else 0, and the goal has to be found before it
can be learned.

Where episodes start matters to whoever learns in context. From one place, who takes the wrong way sees no reward there,
sees itself take that way, and takes it again; from anywhere, one episode or another starts near the goal.

`light` and `heavy`, or `slippery` and `rough`, that are equal leave every task with the same mass or friction.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.types import Array, PyTree

STEP = 0.1  # seconds
SUBSTEPS = 2
FORCE = 6.0  # of an action of 1
PICTURE = 100  # units of a picture in a length of 1


@struct.dataclass
class State(environment.EnvState):
    """Where the body is, and how fast it moves."""

    position: Array = None  # [2] float32
    velocity: Array = None  # [2] float32, per second


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    goal: Array = None  # [2] float32
    mass: Array = None  # [] float32
    friction: Array = None  # [] float32, force per velocity


@dataclasses.dataclass(frozen=True)
class PointMass(TaskFamily[State, Params]):
    """Point mass: push a body of unknown mass and friction to a goal that is not shown.

    Raises:
        ConfigError: for a range that is empty or not above 0, a start off the table, or fewer than one step.
    """

    steps: int = 20
    width: float = 0.3
    reward: Literal["distance", "near"] = "distance"
    start: float = 1.0  # half the side of the square in which an episode starts
    nearest: float = 0.4  # of the ring that goals are drawn from
    farthest: float = 0.9
    light: float = 0.5  # the mass is between, log-uniform
    heavy: float = 2.0
    slippery: float = 1.0  # the friction is between, log-uniform
    rough: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"env.steps must be at least 1; got {self.steps}")
        if not self.width > 0:
            raise ConfigError(f"env.width must be above 0; got {self.width}")
        if not 0 <= self.start <= 1:
            raise ConfigError(f"env.start is from 0, the center, to 1, the whole table; got {self.start}")
        for low, high, most in (("nearest", "farthest", 1.0), ("light", "heavy", 10.0), ("slippery", "rough", 10.0)):
            ends = getattr(self, low), getattr(self, high)
            if not 0 < ends[0] <= ends[1] <= most:
                raise ConfigError(f"expected 0 < env.{low} <= env.{high} <= {most:g}; got {ends[0]} and {ends[1]}")

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.array([0.5, 0.0], jnp.float32), jnp.float32(1.0), jnp.float32(2.0))

    @property
    def start_varies(self) -> bool:
        return self.start > 0

    def action_space(self, params: Params) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (2,))

    def observation_space(self, params: Params) -> spaces.Box:
        most: Array = np.array([1.0, 1.0, np.inf, np.inf], np.float32)  # not a jax one: read while tracing
        return spaces.Box(-most, most, (4,), jnp.float32)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        position = jax.random.uniform(key, (2,), jnp.float32, minval=-self.start, maxval=self.start)
        state = State(jnp.int32(0), position, jnp.zeros(2, jnp.float32))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        position, velocity = state.position, state.velocity
        for _ in range(SUBSTEPS):
            force = FORCE * action - params.friction * velocity
            velocity = velocity + (STEP / SUBSTEPS) * force / params.mass
            reached = position + (STEP / SUBSTEPS) * velocity
            position = jnp.clip(reached, -1.0, 1.0)
            velocity = jnp.where(reached == position, velocity, 0.0)
        state = State(state.time + 1, position, velocity)
        away = jnp.sqrt(jnp.sum((position - params.goal) ** 2))
        reward = jnp.exp(-away / self.width) if self.reward == "distance" else (away <= self.width).astype(jnp.float32)
        return self.observe(key, state, action, params), state, reward, jnp.bool_(False), {}

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        """Position, and velocity in half units, `[4]`: all of them are about 1 at most."""
        return jnp.concatenate([state.position, 0.5 * state.velocity])

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Goals uniform over the ring's area, masses and frictions log-uniform."""
        area, angle, mass, friction = jax.random.uniform(key, (4, n), jnp.float32)

        def between(share, low, high):
            return low * (high / low) ** share

        distance = jnp.sqrt(self.nearest**2 + area * (self.farthest**2 - self.nearest**2))
        angle = 2 * math.pi * angle
        return Params(
            jnp.full(n, self.steps, jnp.int32),  # pyright: ignore[reportArgumentType]
            distance[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1),
            between(mass, self.light, self.heavy),
            between(friction, self.slippery, self.rough),
        )

    def describe(self, task: Params) -> str:
        x, y = np.asarray(task.goal)
        return f"goal at ({x:.2f}, {y:.2f}), mass {float(task.mass):.2f}, friction {float(task.friction):.2f}"

    def destinations(self, task: Params) -> jax.Array:
        """Return the goal, at any speed."""
        return jnp.concatenate([task.goal, jnp.full((2,), jnp.nan)])[None]

    def trace(self, state: State, action: jax.Array) -> jax.Array:
        return jnp.round(PICTURE * (1 + state.position)).astype(jnp.int32)

    def picture(self, task: Params) -> JsonObject:
        goal = np.round(PICTURE * (1 + np.asarray(task.goal))).astype(int)
        return {"kind": "pool", "size": 2 * PICTURE + 1, "goal": goal.tolist(), "radius": round(PICTURE * self.width)}
