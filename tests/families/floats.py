"""Balance: a mass on a track, pushed to the left or the right by a motor of unknown strength and direction.

The agent sees where the mass is and how fast it moves, two real numbers, and pushes left, not at all or right. What it
cannot see is the task: how strong the motor is, and whether it is wired the wrong way round. Each step pays 1 less the
distance from the middle; off the track the episode ends. The best that can be done is not known.

    cd tests; ad-jax run families/floats.py
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReplayConfig,
    TaskConfig,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.ppo import PPO


@struct.dataclass
class State(environment.EnvState):
    """The mass."""

    position: jax.Array  # [] float32, the track is -1..1
    velocity: jax.Array  # [] float32, per step


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    gain: Any = None  # [] float32, what a push to the right adds to the velocity; negative: wired the wrong way round


@dataclasses.dataclass(frozen=True)
class Balance(TaskFamily[State, Params]):
    """See the module."""

    steps: int = 30
    weakest: float = 0.03
    strongest: float = 0.1

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.float32(self.strongest))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(3)

    def observation_space(self, params: Params) -> spaces.Box:
        return spaces.Box(-4.0, 4.0, (2,), jnp.float32)

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        key_size, key_sign = jax.random.split(key)
        size = jax.random.uniform(key_size, (n,), jnp.float32, self.weakest, self.strongest)
        sign = jnp.where(jax.random.bernoulli(key_sign, 0.5, (n,)), 1.0, -1.0).astype(jnp.float32)
        return Params(jnp.full(n, self.steps, jnp.int32), size * sign)  # pyright: ignore[reportArgumentType]

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return jnp.stack([state.position, 5.0 * state.velocity])

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        key_position, key_velocity = jax.random.split(key)
        position = jax.random.uniform(key_position, (), jnp.float32, -0.6, 0.6)
        velocity = jax.random.uniform(key_velocity, (), jnp.float32, -0.1, 0.1)
        state = State(jnp.int32(0), position, velocity)
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, Any]]:
        velocity = state.velocity + params.gain * (action - 1).astype(jnp.float32)
        position = state.position + velocity
        fallen = jnp.abs(position) > 1.0
        reward = 1.0 - jnp.minimum(jnp.abs(position), 1.0)
        state = State(state.time + 1, position, velocity)
        return self.observe(key, state, action, params), state, reward, fallen, {}

    def describe(self, task: Params) -> str:
        return f"gain {float(task.gain):.4f}"


def config(scale: str = "cpu") -> Experiment:
    """`cpu` learns in about a minute, 19.0 to 28.6; `tiny` runs every part in seconds and learns nothing."""
    ppo = PPO(
        actors=4,
        unroll=30,
        epochs=8,
        minibatches=2,
        hidden=(32, 32),
        learning_rate=3e-3,
        discount=0.95,
        trace_decay=0.8,
        decay_updates=80.0,
    )
    cpu = Experiment(
        name="balance",
        env=Balance(),
        source=ppo,
        model=Transformer(layers=2, width=64, heads=2, window=80),
        tasks=TaskConfig(train=48, held_out=8),
        collect=CollectConfig(seeds=1, episodes=80, chunk_learners=48),
        replay=ReplayConfig(keep_every=4, phases=4, segment=80, batch=64),
        method=Distillation(updates=600, learning_rate=4e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=30, seeds=4, greedy=False, source_seeds=4),
    )
    tiny = dataclasses.replace(
        cpu,
        source=dataclasses.replace(ppo, actors=2, epochs=2, hidden=(8,)),
        model=Transformer(layers=1, width=16, heads=2, mlp_width=32, window=20),
        tasks=TaskConfig(train=4, held_out=3),
        collect=CollectConfig(seeds=2, episodes=10, chunk_learners=4),
        replay=ReplayConfig(segment=20, batch=8),
        method=Distillation(updates=4, warmup_updates=2, updates_per_dispatch=2, checkpoint_every=4),
        evaluate=EvaluateConfig(episodes=6, seeds=2, greedy=False, episodes_per_dispatch=4, source_seeds=2),
    )
    return {"cpu": cpu, "tiny": tiny}[scale]
