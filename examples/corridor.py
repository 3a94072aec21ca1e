"""A corridor; one hidden cell pays 1 on every step there. The task is that cell; the agent sees its own position.

`ad-jax run examples/corridor.py`: tabular Q-learning learns 39 of the 49 cells, a transformer is distilled from its
histories, and finds the other 10 in its context.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array

from ad_jax.envs.base import TaskFamily
from ad_jax.experiment import CollectConfig, EvaluateConfig, Experiment, ReplayConfig, TaskConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.q_learning import QLearning


@struct.dataclass
class State(environment.EnvState):  # has `time`
    position: Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):  # a task; has `max_steps_in_episode`
    cell: Array | None = None  # [] int32


@dataclasses.dataclass(frozen=True)
class Corridor(TaskFamily[State, Params]):
    size: int = 49  # the fields are the options: env.size=65
    episode_length: int = 40

    def action_space(self, params=None):
        return spaces.Discrete(3)  # left, stay, right

    def observation_space(self, params):
        return spaces.Discrete(self.size)

    @property
    def default_params(self):
        return Params(self.episode_length, jnp.int32(0))

    def all_tasks(self):
        limits = jnp.full(self.size, self.episode_length)
        return Params(limits, jnp.arange(self.size))  # pyright: ignore[reportArgumentType]

    def reset_env(self, key, params):
        return jnp.int32(self.size // 2), State(jnp.int32(0), jnp.int32(self.size // 2))

    def step_env(self, key, state, action, params):
        position = jnp.clip(state.position + action - 1, 0, self.size - 1)
        reward = (position == params.cell).astype(jnp.float32)
        return position, State(state.time + 1, position), reward, jnp.bool_(False), {}

    def optimal_return(self, tasks):  # need not be known; it is what the report compares with
        way = np.abs(np.asarray(tasks.cell) - self.size // 2)
        return self.episode_length + 1.0 - np.maximum(way, 1)


def config(scale="cpu"):
    """Dark Room's recipe, smaller. `cpu` is the only scale."""
    cpu = Experiment(
        name="corridor",
        env=Corridor(),
        source=QLearning(learning_rate=1.0, exploration_episodes=100.0, explore="novel"),
        model=Transformer(layers=3, width=32, heads=2, window=160, token_mask=0.3),
        tasks=TaskConfig(train=39, held_out=10),
        collect=CollectConfig(seeds=32, episodes=200, chunk_learners=312),
        replay=ReplayConfig(keep_every=20, phases=8, segment=160, batch=32),  # windows of four episodes
        method=Distillation(updates=1000, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=40, seeds=4, greedy=False, source_seeds=2),
    )
    return {"cpu": cpu}[scale]
