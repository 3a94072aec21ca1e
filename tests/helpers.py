"""Small things that several test files build."""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import advance
from ad_jax.methods.base import Setting
from ad_jax.process import metrics
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage.feeds import Windows
from ad_jax.stage.train import train
from ad_jax.stage.trainer import Trainer
from ad_jax.types import Discrete, Histories, Spec, Transition

GRID = Spec(Discrete(5), (2,), (9, 9))
# Of the scale `smoke`: every stage, one program of each kind, on one device. Most of such a run is compiling.
LITTLE = (
    "mesh.data=1",
    "model.layers=1",
    "method.evaluate_every=0",
    "evaluate.greedy=False",
    "evaluate.source_seeds=0",
)
unused: Any = None  # the part of a `Model` that a test does not call


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1):
    """Return a mesh over the first devices of the 8 virtual ones."""
    return make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


@functools.lru_cache(maxsize=4)
def trainer_of(model, spec, config, sampling, mesh, seed, render=lambda observation: observation) -> Trainer:
    """Return the compiled parts of a method that is fed histories, of a family that it need not know.

    They hold no state, so the same ones serve all trainings alike, and are traced once.
    """
    family: Any = None
    learner = config.make(Setting(family, model, None, spec, spec, None, sampling, mesh)).learner
    return Trainer(learner, Windows(spec, sampling, mesh, render), config, mesh, seed)


def resumed(trainer: Any, config: Any, folder: pathlib.Path) -> list[tuple[int, Any]]:
    """Train four updates at once, and stopped after each of them: the updates done and the state of both.

    Args:
        trainer: a `Trainer` of a method that is fed tasks.
        config: the method's options; how many updates there are, and how often they are saved, is set here.
        folder: for both run directories.
    """
    found = []
    for name, stops in (("whole", [4]), ("parts", [1, 2, 3, 4])):
        (run := folder / name).mkdir()
        for updates in stops:
            asked = dataclasses.replace(config, updates=updates, checkpoint_every=1)
            meta = {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}
            train(trainer, trainer.feed, asked, run / "checkpoints", meta, metrics.MetricsLog(run, metrics.Config()))
        with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
            found.append(jax.device_get(checkpoints.restore(trainer.abstract_state))[:2])
    return found


def xla_flags(devices: int) -> str:
    """Return the compiler's flags of all tests, for a process on so many CPU devices."""
    kept = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbered_histories(count: int, lengths, episode: int = 4) -> Histories:
    """Histories whose every step tells where it is from: row = history, column = time modulo 9, action = time modulo 5.

    `lengths`: steps of all of them, or one each of the episodes' lengths to repeat.
    """
    steps = lengths
    time = np.tile(np.arange(steps), (count, 1))
    history = np.tile(np.arange(count)[:, None], (1, steps))
    done = time % episode == episode - 1
    observation = np.stack([history % 9, time % 9], axis=-1).astype(np.uint8)
    transition = Transition(
        observation, (time % 5).astype(np.uint8), (history * 1000 + time).astype(np.float32), np.zeros_like(done), done
    )
    ids = [f"task-{i}" for i in range(count)]
    zeros = np.zeros(count, np.int32)
    return Histories(transition, {"goal": np.zeros((count, 2), np.int32)}, ids, zeros, zeros)


def refused(capsys, arguments, *parts: str) -> str:
    """Return the one message of a command that must exit with 2, which must contain every part."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ad-jax: ")
    assert "Traceback" not in error
    for part in parts:
        assert part in error, f"{part!r} is not in: {error}"
    return error


@functools.partial(jax.jit, static_argnums=0)
def play(family, key, task, actions):
    """Observations acted on and outcomes `[T, ...]` of given actions, through `advance`."""
    key_reset, key_env = jax.random.split(key)

    def step(carry, x):
        action, key = x
        observation, state, outcome = advance(family, key, carry[1], action, task)
        return (observation, state), (carry[0], outcome)

    keys = jax.random.split(key_env, len(actions))
    return jax.lax.scan(step, family.reset_env(key_reset, task), (actions, keys))[1]


def differentiated(f, g, *inputs):
    """Return `f(*inputs)`, and the gradients of its product with `g`, from one program."""

    @jax.jit
    def both(g, *inputs):
        out, back = jax.vjp(f, *inputs)
        return out, back(g)

    return both(g, *inputs)
