"""Environment steps per second of RL², learning included: acting, and the gradient steps on what was done.

The work is products of matrices, so the limit is the peak, by `count.rl2_flops`.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ad_jax import envs
from ad_jax.bench.count import rl2_flops
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work, measure
from ad_jax.envs.base import seen_spec_of
from ad_jax.methods import rl2
from ad_jax.models import lstm
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.trainer import Trainer

UPDATES = 2  # in one timed call
MODEL = lstm.LSTM(width=32, hidden=128, mlp_width=64, value_head=True)


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows of the stage."""
    for trials in sizes.trials:
        yield row(trials, sizes)


def row(trials: int, sizes: Sizes) -> Row:
    """One trainer on Dark Room, in its default configuration but for the trials side by side."""
    family = envs.make("dark_room", {})
    config = rl2.RL2(trials=trials, minibatches=2, updates=10**6, updates_per_dispatch=UPDATES)
    network = MODEL.actor_critic(seen_spec_of(family))
    table = family.all_tasks()
    assert table is not None  # a room's goals can be counted
    mesh = make_mesh(MeshConfig())
    feed = TrainingTasks(table, mesh)
    trainer = Trainer(rl2.make(network, family, table, config, mesh), feed, config, mesh, 0)
    state = [trainer.init()]

    def call():
        state[0], _ = trainer.run(state[0], feed.tasks, jnp.int32(UPDATES))
        return jax.block_until_ready(state[0].step)

    steps = float(UPDATES * trials * config.unroll * family.episode_length)
    works = {"learn": Work(call, steps), "peak": peak(sizes)}
    seconds = measure(works, sizes.rounds, sizes.budget)
    flops = rl2_flops(state[0].params, config.epochs)
    return rate(
        f"rl2/lstm {MODEL.hidden} on dark_room/{trials} trials", "env steps/s", steps, seconds["learn"],
        "limits/peak float32", works["peak"].amount, seconds["peak"], flops * steps,
        flop_per_env_step=flops, env_steps=steps,
    )  # fmt: skip
