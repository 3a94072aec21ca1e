"""Algorithm Distillation on Dark Room, whole, in memory: a few minutes on two CPU cores, seconds on an accelerator.

    python examples/minimal.py

A 9 x 9 room, dark: an agent sees where it stands, not where the goal is. Q-learners each learn one goal from nothing.
A transformer learns to predict their actions from their histories. Frozen, it is put into rooms whose goals no learner
had, and finds them in its context.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ad_jax.envs.base import spec_of
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.history import replay
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import from_model
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.sources.q_learning import QLearning
from ad_jax.stage.collect import Collector, as_histories
from ad_jax.stage.evaluate import evaluate
from ad_jax.stage.rollout import make_evaluator

SEED, LEARNERS, LIFETIME, EPISODES = 0, 8, 400, 40  # learners a task, episodes they live, episodes in context
UPDATES, BATCH, WINDOW, LAYERS = 1000, 64, 80, 4
STRIDE, PHASES = 40, 8  # of every 40 episodes one is kept, so that a window sees progress, in 8 ways


def collect(family, source, tasks, mesh):
    """Let every learner live on its task; returns `Histories`, one row a learner: `[H, T, ...]`."""
    ids = family.task_ids(tasks)
    collector = Collector(family, source, LIFETIME, mesh, chunk=len(ids) * LEARNERS)
    lifetimes = collector.run(SEED, tasks, ids, LEARNERS, first=0)
    return as_histories(lifetimes, tasks, ids, LEARNERS, 0, len(ids) * LEARNERS)


def train(model, spec, histories, mesh):
    """Predict the source's action at every step of every window; returns the parameters."""
    sampling = replay.Config(keep_every=STRIDE, phases=PHASES, segment=WINDOW, batch=BATCH)
    on_device = replay.load(histories, spec, sampling, mesh)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 6e-3, 50, UPDATES)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def loss(params, batch, key):
        logits = model.apply(params, batch.steps, key)  # [B, L, A]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets["action"]).mean()

    @jax.jit
    def update(state, step):
        params, moments = state
        key_batch, key_model = jax.random.split(jax.random.fold_in(jax.random.key(SEED), step))
        batch = replay.sample(on_device, key_batch, spec, sampling, mesh)
        value, grads = jax.value_and_grad(loss)(params, batch, key_model)
        changes, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, changes), moments), value

    params = jax.jit(model.init)(jax.random.key(SEED))
    state = params, optimizer.init(params)
    for start in range(0, UPDATES, 100):
        state, losses = jax.lax.scan(update, state, jnp.arange(start, start + 100, dtype=jnp.int32))
        print(f"update {start + 100:5d}   loss {losses.mean():.3f}")
    return state[0]


def main():
    mesh = make_mesh(MeshConfig())
    family = DarkRoom(size=9, steps=20)
    spec, split = spec_of(family), family.split(seed=9, train=65, held_out=16)
    ((_, held_out),) = split.held_out.items()

    learner = QLearning(learning_rate=1.0, discount=0.9, exploration_episodes=200.0, explore="novel")
    source = learner.make(family)
    histories = collect(family, source, split.train, mesh)
    print(f"{len(histories.task_ids)} lifetimes of {histories.transition.reward.shape[1]} steps")

    model = Transformer(layers=LAYERS, width=64, heads=2, window=WINDOW, token_mask=0.3).make(spec)
    params = train(model, spec, histories, mesh)

    evaluator = make_evaluator(from_model(model), family, mesh, EPISODES, EPISODES * family.episode_length)
    ids = family.task_ids(held_out)
    curve = evaluate(evaluator, params, held_out, ids, 4, EPISODES, family, mesh, SEED)
    returns, best = curve.returns.mean((0, 1)), np.mean(family.optimal_return(held_out))
    for episode in (1, 2, 5, 10, 20, EPISODES):
        print(f"in-context episode {episode:3d}   return {returns[episode - 1]:5.2f}   of {best:.2f}")
    return returns


if __name__ == "__main__":
    main()
