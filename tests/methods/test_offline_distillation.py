"""Offline distillation: the student becomes its teacher on the windows it is shown, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories

from ad_jax import envs, models
from ad_jax.errors import ConfigError
from ad_jax.history import replay
from ad_jax.methods.base import Setting
from ad_jax.methods.offline_distillation import OfflineDistillation
from ad_jax.methods.teacher import Teacher
from ad_jax.models.transformer import Paper
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.trainer import Trainer

ROOM = envs.make("dark_room", {})
TASKS = ROOM.split(0, 4, 2).train
SAMPLING = replay.Config(segment=8, batch=16, groups=1)
CONFIG = OfflineDistillation(updates=200, updates_per_dispatch=200, warmup_updates=5, learning_rate=1e-2)
TRANSFORMER = models.make("transformer", {"layers": 1, "width": 16, "heads": 1, "mlp_width": 16, "window": 8})
LSTM = models.make("lstm", {"width": 16, "hidden": 32, "mlp_width": 32})


def setting(model=TRANSFORMER, sampling=SAMPLING) -> Setting:
    """Return a student's setting with a teacher that is sure of itself."""
    taught = model.make(GRID)
    params = jax.tree.map(lambda x: 2 * x, taught.init(jax.random.key(7)))
    teacher = Teacher("runs/x", taught, params, GRID, 1.0, frozenset(ROOM.task_ids(TASKS)))
    return Setting(ROOM, LSTM.make(GRID), LSTM, GRID, GRID, TASKS, sampling, mesh_of(), teacher=teacher)


def test_the_student_becomes_its_teacher_on_the_windows_it_is_shown():
    s = setting()
    train = Trainer(CONFIG.make(s).learner, feed_of(CONFIG, s), CONFIG, s.mesh, 0)
    resident = replay.load(numbered_histories(8, 32), GRID, SAMPLING, s.mesh)
    state, metrics = train.run(train.init(), resident, jnp.int32(200))
    assert float(metrics["loss"][-1]) < 0.1 * float(metrics["loss"][0])
    batch, _ = jax.jit(train.feed.draw)(resident, jax.random.key(5))
    theirs = jax.jit(s.teacher.model.apply)(s.teacher.params, batch.steps)
    mine = jax.jit(s.model.apply)(state.params, batch.steps)
    agree = np.mean(np.argmax(theirs, -1) == np.argmax(mine, -1))
    assert agree > 0.9
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), state.teacher, s.teacher.params))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher_temperature": 0.0}, r"teacher_temperature must be above 0; got 0.0"),
        ({"label_smoothing": 0.1}, r"label_smoothing=0.1 has no meaning beside a teacher's"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(CONFIG, **changes).validate(SAMPLING)


def test_windows_longer_than_the_teacher_can_take_are_refused():
    short = Paper(layers=1, width=8, heads=1, mlp_width=8, window=4, episode_length=4)
    with pytest.raises(ConfigError, match=r"replay.segment=8 is longer than the teacher can take \(4 steps\)"):
        CONFIG.make(setting(short))
