"""What is dispatched needs nothing from the host: arguments are on the devices, and programs ask for nothing.

JAX's guard refuses the transfer. On a CPU it sees what goes to the device; what comes back it does not see, because
arrays are read where they lie. That a program calls the host is refused by `tests/test_accelerators.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from collect_helpers import IDS as COLLECTED
from collect_helpers import TASKS as COLLECTED_TASKS
from collect_helpers import collector_of
from helpers import GRID, mesh_of, numbered_histories, trainer_of
from small_room import IDS, MODELS, ROOM, TASKS

from ad_jax.checkpoint import checkpoint
from ad_jax.history import replay
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import from_model
from ad_jax.process import metrics
from ad_jax.stage import train as train_lib
from ad_jax.stage.evaluate import evaluate
from ad_jax.stage.rollout import make_evaluator

SAMPLING = replay.Config(segment=8, batch=16, groups=8)
TINY = Distillation(updates=4, warmup_updates=2, updates_per_dispatch=2, checkpoint_every=4)


class Guarded:
    """A program whose calls are refused every transfer; the first `tracing` calls are not: constants are sent then."""

    def __init__(self, program: Callable, tracing: int = 0):
        self.program, self.calls = program, -tracing

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        with jax.transfer_guard("disallow" if self.calls > 0 else "allow"):
            return self.program(*arguments)


def test_the_guard_sees_what_goes_to_the_device():
    """Or the tests below could not fail."""
    add = Guarded(jax.jit(lambda x: x + 1))
    assert add(jax.device_put(np.float32(1))) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        add(np.float32(1))


def test_a_dispatch_of_training_needs_nothing_from_the_host(tmp_path, monkeypatch):
    """In the training loop itself, twice: its state, histories, count and seed are on the device."""
    model = Transformer(layers=1, width=16, heads=2, mlp_width=16, window=6, dropout=0.1).make(GRID)
    trainer, compiled = trainer_of(model, GRID, TINY, SAMPLING, mesh_of(), seed=1), []

    def guarded(residents):
        compiled.append(Guarded(inner(residents)))
        return compiled[-1]

    inner = trainer.compiled
    monkeypatch.setattr(trainer, "compiled", guarded)
    held, meta = replay.load(numbered_histories(16, 24), GRID, SAMPLING, mesh_of()), {}
    meta["architecture"] = checkpoint.architecture_of(trainer.abstract_state.params)
    log = metrics.MetricsLog(tmp_path, metrics.Config())
    assert train_lib.train(trainer, held, TINY, tmp_path / "checkpoints", meta, log).step == 4
    assert [program.calls for program in compiled] == [2]


def test_a_dispatch_of_evaluation_needs_nothing_from_the_host():
    model = MODELS["streaming"]
    evaluator = make_evaluator(from_model(model), ROOM, mesh_of(), 3, 6)
    run = Guarded(evaluator.run, tracing=1)
    params = jax.jit(model.init)(jax.random.key(0))
    evaluate(evaluator._replace(run=run), params, TASKS, IDS, 2, 3, ROOM, mesh_of(), seed=5)
    assert run.calls == 2


def test_a_chunk_of_learners_needs_nothing_from_the_host():
    collector = collector_of(mesh_of(), 4)
    collector.compile(0, COLLECTED_TASKS, COLLECTED, 2)
    collector.lifetimes = Guarded(collector.lifetimes)
    lived = collector.run(0, COLLECTED_TASKS, COLLECTED, 2, 0)
    assert np.asarray(lived.transition.reward).any()
