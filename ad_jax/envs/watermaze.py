"""Watermaze: a round pool in first person, with a platform hidden under the water; the agent sees pictures.

The task is the platform's place, continuous (to 2^-14 of the pool's radius). What is stepped and stored is the pose,
`(x, y, heading)`, 6 bytes; `render` makes the picture from it (`raycast.py`). The platform is in no picture: only the
reward tells where it is. Eight actions, each with the whole of `stride` and `turn`, turning before moving:

    0 forward    2 step left     4 turn left     6 turn left and go forward
    1 back       3 step right    5 turn right    7 turn right and go forward

Who walks into the wall slides along it. Published variants, as options:

    reward="once"        1 the first time that the platform is reached in an episode, which goes on to `steps`
    reward="terminate"   1 at the platform, which ends the episode
    heading="random"     a heading drawn afresh each episode        heading="fixed"   always along +x

Of the ways to the platform, two can be demonstrated (`optimal_action`); both earn all that there is to earn:

    way="nearest"   the action that ends nearest to the platform, sideways and backwards too: nearly the fewest steps
    way="facing"    turn toward the platform, then walk: some steps more, and easier to imitate from pictures

Source: Laskin et al. 2022 (arXiv 2210.14215), section 4 and appendix: DMLab Watermaze, 72 x 96 x 3 pixels, 50 steps, 8
actions, reward 1 if the platform is reached, start in the center. This is not DMLab: its geometry, its pictures and
which 8 actions there are, sizes, speed and headings at the start are ours, as the paper does not state them. The
published curve runs to 160 episodes in 8000 steps, so episodes there have the full 50 steps: "once" is the default.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs import raycast
from ad_jax.envs.base import TaskFamily
from ad_jax.envs.raycast import RADIUS, TURN
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.types import Array, PyTree

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0), (0, 0), (1, 0), (1, 0))  # strides (ahead, to the left)
TURNS = (0, 0, 0, 0, 1, -1, 1, -1)  # turns to the left, before the move
FORWARD, TURN_LEFT, TURN_RIGHT = 0, 4, 5
BODY = RADIUS // 20  # how near to the wall one gets


@struct.dataclass
class State(environment.EnvState):
    """Where the agent is and looks, and whether it has been at the platform in this episode."""

    pose: Array  # [3] int32: x, y from the middle, heading; units of `raycast`
    found: Array  # [] bool


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    platform: Array = None  # [2] int32, its middle (x, y)


@dataclasses.dataclass(frozen=True)
class Watermaze(TaskFamily[State, Params]):
    """Options of the Watermaze: Lengths are in radii of the pool.

    Raises:
        ConfigError: for sizes that do not fit the pool or the picture.
    """

    height: int = 72  # of the picture, in pixels
    width: int = 96
    steps: int = 50
    stride: float = 0.1
    turn: float = 22.5  # degrees
    platform: float = 0.15  # radius
    heading: Literal["random", "fixed"] = "random"
    reward: Literal["once", "terminate"] = "once"
    way: Literal["nearest", "facing"] = "nearest"  # of `optimal_action`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.height <= 2 * self.width and self.width <= 4096):
            raise ConfigError(
                f"watermaze needs 1 <= height <= 2 * width, width <= 4096; got {self.height} x {self.width}"
            )
        for name, most in (("stride", 0.5), ("turn", 180), ("platform", 0.3)):
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(f"env.{name} is above 0 and at most {most}; got {getattr(self, name)}")
        if self.steps < 1:
            raise ConfigError(f"env.steps must be at least 1; got {self.steps}")

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def start_varies(self) -> bool:
        return self.heading == "random"

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.array([RADIUS // 2, 0], jnp.int32))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: Params) -> spaces.Box:
        """Of what is stored: the pose, places counted from the corner (-1, -1) so that they are not negative."""
        high: Array = np.array([2 * RADIUS, 2 * RADIUS, TURN - 1], np.int32)  # not a jax one: read while tracing
        return spaces.Box(0, high, (3,), jnp.int32)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        heading = jax.random.randint(key, (), 0, TURN, jnp.int32) if self.heading == "random" else jnp.int32(0)
        zero = jnp.int32(0)
        state = State(zero, jnp.stack([zero, zero, heading]), jnp.bool_(False))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        pose = self._moved(state.pose, action)
        at_platform = self._away(pose, params) <= self._platform**2
        rewarded = at_platform & ~state.found
        terminated = at_platform if self.reward == "terminate" else jnp.bool_(False)
        state = State(state.time + 1, pose, state.found | at_platform)
        return self.observe(key, state, action, params), state, rewarded.astype(jnp.float32), terminated, {}

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return state.pose + jnp.array([RADIUS, RADIUS, 0], jnp.int32)

    def render(self, observation: jax.Array) -> jax.Array:
        """Return the picture `[height, width, 3]` uint8 from a stored pose `[3]`."""
        x, y, heading = observation.astype(jnp.int32)
        return raycast.render(x - RADIUS, y - RADIUS, heading, self.height, self.width)

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Platforms that lie in the pool as a whole and not under the start, uniform over the area that leaves."""
        nearest, farthest = self.platform + self.stride, 1 - self.platform
        area, angle = jax.random.uniform(key, (2, n), jnp.float32)
        distance = RADIUS * jnp.sqrt(nearest**2 + area * (farthest**2 - nearest**2))
        angle = 2 * math.pi * angle
        platform = jnp.round(distance[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))
        return Params(jnp.full(n, self.steps, jnp.int32), platform.astype(jnp.int32))  # pyright: ignore[reportArgumentType]

    def task_ids(self, tasks: Params) -> list[str]:
        return [f"platform-{x}-{y}" for x, y in np.asarray(tasks.platform)]

    def describe(self, task: Params) -> str:
        x, y = np.asarray(task.platform) / RADIUS
        return f"platform of radius {self.platform:g} at ({x:.2f}, {y:.2f}) of a pool of radius 1"

    def optimal_return(self, tasks: Params) -> np.ndarray | None:
        """1 where there is ample time to get there and no stride steps over the platform; else unknown."""
        ample = math.ceil(180 / self.turn) + 2 * math.ceil(1 / self.stride)
        easy = self.steps >= ample and self.platform >= self.stride and self.turn <= 45
        return np.ones(len(tasks.platform)) if easy else None

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        """Return the next action on the `way` to the platform; it depends on the pose alone, found or not.

        "nearest": the action that ends nearest to the platform's middle, the first of equals; on the platform, turn
        left (so it stays, and comes back if noise has led it away). Greedy, it needs on average 3 % more steps than the
        fewest (docs/envs/watermaze.md). One of four directions is always within 45 degrees of the way, so each step
        gains while `stride` is below 1.4 `platform`.

        "facing": turn, to the nearer side, until the platform's middle is within about half a turn of straight ahead,
        then go forward; on the platform, forward. It walks over the platform and comes back.
        """
        at_platform = self._away(state.pose, task) <= self._platform**2
        if self.way == "facing":
            off = task.platform - state.pose[:2]
            cos, sin = jnp.asarray(raycast.directions())[state.pose[2]]
            ahead, left = (cos * off[0] + sin * off[1]) >> 14, (cos * off[1] - sin * off[0]) >> 14
            # Somewhat more than half a turn: with less, roundings could send it to and fro for ever.
            faced = jnp.abs(left) * 1024 <= ahead * round(1024 * math.tan(math.radians(min(0.51 * self.turn, 80))))
            return jnp.where(faced | at_platform, FORWARD, jnp.where(left > 0, TURN_LEFT, TURN_RIGHT)).astype(jnp.int32)
        after = jax.vmap(self._moved, (None, 0))(state.pose, jnp.arange(len(MOVES), dtype=jnp.int32))
        nearest = jnp.argmin(jax.vmap(self._away, (0, None))(after, task))
        return jnp.where(at_platform, TURN_LEFT, nearest).astype(jnp.int32)

    def optimal_label(self, observation: jax.Array, task: Params) -> jax.Array:
        pose = observation - jnp.array([RADIUS, RADIUS, 0], jnp.int32)
        return self.optimal_action(State(jnp.int32(0), pose, jnp.bool_(False)), task)

    def destinations(self, task: Params) -> jax.Array:
        """Return the platform's middle in `coordinates`, any heading."""
        return jnp.concatenate([task.platform.astype(jnp.float32) / RADIUS, jnp.full((2,), jnp.nan)])[None]

    def coordinates(self, observation: jax.Array) -> jax.Array:
        """Return the place in radii from the middle, and the heading's cosine and sine, `[4]`."""
        x, y, heading = observation.astype(jnp.float32)
        angle = heading * (2 * math.pi / TURN)
        return jnp.stack([x / RADIUS - 1, y / RADIUS - 1, jnp.cos(angle), jnp.sin(angle)])

    def trace(self, state: State, action: jax.Array) -> jax.Array:
        return state.pose[:2] + RADIUS

    def picture(self, task: Params) -> JsonObject:
        goal = np.asarray(task.platform) + RADIUS
        return {"kind": "pool", "size": 2 * RADIUS + 1, "goal": goal.tolist(), "radius": self._platform}

    def _moved(self, pose: jax.Array, action: jax.Array) -> jax.Array:
        """Return the pose `[3]` after `action`. In whole numbers, so that a lifetime is the same in any batch, on any
        device.
        """
        turn, stride = round(self.turn / 360 * TURN), round(self.stride * RADIUS)
        heading = (pose[2] + turn * jnp.array(TURNS, jnp.int32)[action]) & (TURN - 1)
        cos, sin = jnp.asarray(raycast.directions())[heading]
        ahead, left = jnp.array(MOVES, jnp.int32)[action]
        moved = stride * jnp.stack([ahead * cos - left * sin, ahead * sin + left * cos])
        place = pose[:2] + (moved + raycast.UNIT // 2 >> 14)
        squared = jnp.sum(place * place)
        most = RADIUS - BODY
        inside = jax.lax.div(place * most, raycast.isqrt(squared) + 1)  # toward the middle
        place = jnp.where(squared > most**2, inside, place)
        return jnp.concatenate([place, heading[None]])

    def _away(self, pose: jax.Array, task: Params) -> jax.Array:
        """Squared distance from the platform's middle, `[]` int32; below 2^30."""
        return jnp.sum((pose[:2] - task.platform) ** 2)

    @property
    def _platform(self) -> int:
        return round(self.platform * RADIUS)
