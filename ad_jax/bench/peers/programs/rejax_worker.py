"""Rejax's PPO and DQN on gymnax's CartPole-v1; runs in rejax's own environment.

Nothing is evaluated meanwhile: of rejax, `train` alone is timed.
"""

from importlib.metadata import version

import jax
import jax.numpy as jnp
import rejax  # pyright: ignore[reportMissingImports]
from serving import serve  # pyright: ignore[reportMissingImports]


def algorithm_of(work: dict):
    """Return rejax's algorithm with the sizes of `work`."""
    common = {
        "env": "CartPole-v1",
        "total_timesteps": work["env_steps"],
        "eval_freq": work["env_steps"],
        "skip_initial_evaluation": True,
        "num_envs": work["envs"],
        "learning_rate": work["learning_rate"],
        "max_grad_norm": work["max_grad_norm"],
    }
    if work["kind"] == "ppo":
        made = rejax.PPO.create(
            **common,
            agent_kwargs={"activation": "relu", "hidden_layer_sizes": tuple(work["hidden"])},
            num_steps=work["unroll"],
            num_epochs=work["epochs"],
            num_minibatches=work["minibatches"],
            ent_coef=work["entropy_cost"],
        )
    else:  # its hidden layers are 64 and 64 whatever is asked for
        made = rejax.DQN.create(
            **common,
            agent_kwargs={"activation": "relu"},
            buffer_size=work["capacity"],
            fill_buffer=work["warmup"],
            batch_size=work["batch"],
            num_epochs=work["gradient_steps"],
            polyak=0.0,  # the target network is a copy, made every so many steps
            target_update_freq=work["target_steps"],
        )
    return made.replace(eval_callback=lambda algorithm, state, key: jnp.zeros(()))


def make(work: dict):
    """Return what trains all learners once, and the versions it does so with."""
    algorithm = algorithm_of(work)
    program, calls = [], [0]

    def call():
        keys = jax.random.split(jax.random.key(calls[0]), work["learners"])
        calls[0] += 1
        first = not program
        if first:
            program.append(jax.jit(jax.vmap(algorithm.train)).lower(keys).compile())
        state = jax.block_until_ready(program[0](keys)[0])
        cost = program[0].cost_analysis() if first else {}
        return {"flops": cost["flops"], "env_steps": int(state.global_step.sum())} if first else None

    return call, {name: version(name) for name in ("rejax", "gymnax", "jax")}


if __name__ == "__main__":
    serve(make)
