"""A heated building of two masses: a task family whose task is the building. 20 days are one episode.

Indoor air and the building's mass are two heat stores (2R2C): the heater warms the air, the air warms the mass through
one resistance, and the mass loses heat to the outside through another. All four, the heater's power and its delay of
none, one or two half hours are the task and are not seen; neither is the mass's temperature. On some day of some tasks
the heater loses half of its power, for good.

Every half hour a controller sees the room's temperature, the outside's and the time, and sets the heater to one of five
levels. It pays for energy, and for each degree-hour that people, from 7 to 22 h, have it colder than 20.5 °C or warmer
than 22 °C; at night only below 16 °C. Heat stored in time is the difference between buildings: a fixed lead in the
morning wastes energy in one and leaves people cold in another.

Temperatures are in °C, power in kW, resistances in K/kW, capacities in kWh/K. Ten minutes are one explicit Euler step.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax import TaskFamily
from ad_jax.types import Array

DAY, HOURS = 48, 0.5  # steps a day, hours a step
LEVELS = 5
SLOWEST = 2  # steps of the longest delay
PRICE = 0.02  # of a kWh, in degree-hours
AHEAD = 12  # steps that a plan looks ahead
# What a plan does: a level for some steps, then any of nine shares of the heater's power. [plans, AHEAD]
PLANS = np.array(
    [
        np.where(np.arange(AHEAD) < steps, first / (LEVELS - 1), then)
        for first in range(LEVELS)
        for then in np.linspace(0, 1, 9)
        for steps in (1, 2, 4, 8)
    ],
    np.float32,
)


@struct.dataclass
class State(environment.EnvState):
    """What goes on, beside the time in steps since the first midnight."""

    air: Array = None  # [] float32
    mass: Array = None  # [] float32
    season: Array = None  # [] float32, the outside's mean over the 20 days
    weather: Array = None  # [] float32, how much warmer than usual it is
    asked: Array = None  # [SLOWEST] float32, shares of power that were set, the newest first


@struct.dataclass
class Building(environment.EnvParams):
    """A task."""

    inner: Array = None  # [] float32, resistance between air and mass
    outer: Array = None  # [] float32, resistance between mass and outside
    air: Array = None  # [] float32, capacity
    mass: Array = None  # [] float32, capacity
    power: Array = None  # [] float32
    delay: Array = None  # [] int32, steps
    halves: Array = None  # [] int32, day from which on the power is half, counted from 0


@dataclasses.dataclass(frozen=True)
class Thermostat(TaskFamily[State, Building]):
    """Keep people warm in a building that is not known, at little cost."""

    days: int = 20

    @property
    def episode_length(self):
        return self.days * DAY

    @property
    def default_params(self):
        """Return the average building, whose heater stays whole."""
        inner, outer, air, mass, power = map(jnp.float32, (0.8, 5.5, 1.7, 12.0, 11.0))
        return Building(self.episode_length, inner, outer, air, mass, power, jnp.int32(1), jnp.int32(self.days))

    def sample_tasks(self, key, n):
        """Draw resistances, capacities and how generous the heater is log-uniformly, the rest uniformly."""
        low = jnp.array([0.5, 3.0, 1.0, 6.0, 2.6], jnp.float32)[:, None]
        high = jnp.array([1.2, 10.0, 3.0, 24.0, 5.0], jnp.float32)[:, None]
        key_sizes, key_delay, key_day = jax.random.split(key, 3)
        shares = jax.random.uniform(key_sizes, (5, n), jnp.float32)
        inner, outer, air, mass, generous = low * (high / low) ** shares
        return Building(
            jnp.full(n, self.episode_length, jnp.int32),  # pyright: ignore[reportArgumentType]
            inner,
            outer,
            air,
            mass,
            power=generous * 20.0 / (inner + outer),  # so many times what 20 degrees of difference lose
            delay=jax.random.randint(key_delay, (n,), 0, SLOWEST + 1, jnp.int32),
            halves=jnp.minimum(jax.random.randint(key_day, (n,), 0, 2 * self.days, jnp.int32), self.days),
        )

    def action_space(self, params=None):
        return spaces.Discrete(LEVELS)

    def observation_space(self, params):
        return spaces.Box(-np.inf, np.inf, (4,), jnp.float32)

    def observe(self, key, state, action, params):
        """Room, outside, and the time as a point on a circle, `[4]`: all of them are about 1 at most."""
        turn = 2 * jnp.pi * hour(state) / 24
        return jnp.stack([(state.air - 20) / 5, outside(state) / 10, jnp.sin(turn), jnp.cos(turn)])

    def reset_env(self, key, params):
        season, weather, air, lag = jax.random.uniform(key, (4,), jnp.float32)
        temperatures = {"air": 17 + 3 * air, "mass": 17 + 3 * air - 3 * lag}
        outdoors = {"season": 8 * season - 2, "weather": 2 * weather - 1}
        state = State(jnp.int32(0), **temperatures, **outdoors, asked=jnp.zeros(SLOWEST, jnp.float32))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        level = action.astype(jnp.float32) / (LEVELS - 1)
        after, cost = live(state, level, params)
        weather = 0.97 * state.weather + 0.25 * jax.random.normal(key, (), jnp.float32)
        after = dataclasses.replace(after, weather=weather)
        return self.observe(key, after, action, params), after, -cost, jnp.bool_(False), {}

    def optimal_action(self, state, task):
        """Return how the cheapest of `PLANS` begins, with the building known and the weather as it is now."""

        def cost(plan):
            return jax.lax.scan(lambda state, level: live(state, level, task), state, plan)[1].sum()

        best = jnp.argmin(jax.vmap(cost)(jnp.asarray(PLANS)))
        return jnp.round(jnp.asarray(PLANS)[best, 0] * (LEVELS - 1)).astype(jnp.int32)


def hour(state: State) -> jax.Array:
    """Return the hour of the day, `[]` float32."""
    return HOURS * jnp.asarray(state.time % DAY, jnp.float32)


def outside(state: State) -> jax.Array:
    """Return the temperature outside, `[]` float32; it is highest at 15 h."""
    return state.season + state.weather + 4 * jnp.sin(2 * jnp.pi * (hour(state) - 9) / 24)


def live(state: State, level: jax.Array, task: Building) -> tuple[State, jax.Array]:
    """Return the state after half an hour with the heater set to a share of its power, and what it cost."""
    power = jnp.where(state.time >= task.halves * DAY, 0.5, 1.0) * task.power
    asked = jnp.concatenate([level[None], state.asked])
    heat, air, mass = power * asked[task.delay], state.air, state.mass
    for _ in range(3):
        inward, outward = (air - mass) / task.inner, (mass - outside(state)) / task.outer
        air = air + HOURS / 3 * (heat - inward) / task.air
        mass = mass + HOURS / 3 * (inward - outward) / task.mass
    people = (hour(state) >= 7) & (hour(state) < 22)
    cold = jnp.maximum(jnp.where(people, 20.5, 16.0) - air, 0.0)
    hot = jnp.where(people, jnp.maximum(air - 22.0, 0.0), 0.0)
    cost = HOURS * (cold + hot + PRICE * heat)
    return dataclasses.replace(state, time=state.time + 1, air=air, mass=mass, asked=asked[:-1]), cost
