"""On-policy distillation: who teaches what at which step, that it is learned, what is refused, and `compress`."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE, mesh_of, refused

from ad_jax import Agent, Run, envs, models
from ad_jax.__main__ import main
from ad_jax.envs.base import seen_spec_of, spec_of
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.files import read_json
from ad_jax.history import replay
from ad_jax.methods import on_policy_distillation as method
from ad_jax.methods.base import Setting
from ad_jax.methods.on_policy_distillation import OnPolicyDistillation
from ad_jax.methods.teacher import Divergence, Teacher, divergence
from ad_jax.models.base import Model
from ad_jax.run import in_memory
from ad_jax.run.compress import student_of
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.trainer import Trainer
from ad_jax.types import Box

ROOM = envs.make("dark_room", {"size": 3, "steps": 4})
TASKS = ROOM.split(0, 4, 2).train
SPEC = seen_spec_of(ROOM)
SMALL = OnPolicyDistillation(
    updates=100, updates_per_dispatch=50, warmup_updates=5, lifetimes=8, lifetime_episodes=2, learning_rate=1e-2
)
LSTM = models.make("lstm", {"width": 8, "hidden": 16, "mlp_width": 16})


def teacher_of(model: Model, **changes) -> Teacher:
    params = model.init(jax.random.key(3))
    return Teacher("runs/x", model, params, SPEC, 1.0, frozenset(ROOM.task_ids(TASKS)))._replace(**changes)


def setting(teacher: Teacher | None, devices: int = 1) -> Setting:
    mesh, spec = mesh_of(devices), spec_of(ROOM)
    return Setting(ROOM, LSTM.make(SPEC), LSTM, spec, SPEC, TASKS, replay.Config(), mesh, teacher=teacher)


def trainer(teacher: Teacher, config: OnPolicyDistillation = SMALL, devices: int = 1) -> Trainer:
    s = setting(teacher, devices)
    return Trainer(config.make(s).learner, feed_of(config, s), config, s.mesh, 0)


def knows_the_way() -> Model:
    """Return a model without parameters that moves by the parity of its row, nearly surely."""

    def logits(steps):
        return 5.0 * jax.nn.one_hot(1 + steps.observation[..., 0] % 2, 5)

    def decode(params, cache, steps):
        return logits(steps), cache + 1

    def apply(params, steps, key=None):
        return logits(steps)

    return Model(lambda key: {}, apply, lambda batch: jnp.zeros((batch,)), decode, lambda done: 0, 1, None)


def test_the_teacher_follows_the_student_s_lifetimes():
    """Its logits at every step, over two unrolls of one lifetime, are what it makes of the whole stream at once."""
    teacher = teacher_of(models.make("transformer", {"layers": 2, "width": 8, "heads": 1, "window": 5}).make(SPEC))
    config = dataclasses.replace(SMALL, unroll_episodes=1)
    student = LSTM.make(SPEC)
    parts = method.Parts(student, teacher.model, ROOM, config.make_optimizer())
    lifetimes = method.begin(parts, config, jax.random.key(0), TASKS)
    params, streams, told = student.init(jax.random.key(1)), [], []
    roll = jax.jit(lambda lifetimes, key: method.roll(parts, 4, params, teacher.params, lifetimes, TASKS, key))
    for update in range(2):
        played, logits, lifetimes = roll(lifetimes, jax.random.key(update))
        streams.append(played.steps)
        told.append(logits)
    stream = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *streams)
    assert stream.prev_done[:, 4].all()
    whole = jax.jit(teacher.model.apply)(teacher.params, stream)
    np.testing.assert_allclose(np.concatenate(told, axis=1), whole, atol=1e-5)


def test_what_the_teacher_does_is_learned():
    train = trainer(teacher_of(knows_the_way()))
    state, run = train.init(), train.compiled(train.feed.tasks)
    losses = []
    for _ in range(2):
        state, metrics = run(state, train.feed.tasks, jnp.int32(50))
        losses.append(np.asarray(metrics["loss"]))
    assert losses[0][0] > 1
    assert losses[1][-1] < 0.1


def test_a_lifetime_goes_on_in_the_next_update_and_another_begins_when_it_is_over():
    config = dataclasses.replace(SMALL, unroll_episodes=1)
    train, ages = trainer(teacher_of(knows_the_way()), config), []
    state = train.init()
    for _ in range(2):
        state, _ = train.run(state, train.feed.tasks, 1)
        lived, begun = state.lifetimes, state.lifetimes.steps.prev_done.tolist()
        ages.append((int(lived.age), bool((lived.cache[0].cell != 0).all()), begun))
    assert ages == [(1, True, [True] * 8), (0, False, [False] * 8)]
    assert not np.asarray(state.lifetimes.cache[0].cell).any()
    assert not np.asarray(state.lifetimes.teachers).any()


def test_divergences_are_kullback_and_leibler_s():
    theirs, mine = np.array([[0.7, 0.2, 0.1]]), np.array([[0.3, 0.3, 0.4]])
    kinds: dict[Divergence, np.ndarray] = {
        "forward": theirs * np.log(theirs / mine),
        "reverse": mine * np.log(mine / theirs),
    }
    for kind, expected in kinds.items():
        logits = (jnp.asarray(np.log(x), jnp.float32) for x in (theirs, mine))
        assert float(divergence(kind, *logits)[0]) == pytest.approx(expected.sum(), abs=1e-6)
    masked = jnp.asarray([[0.0, 0.0, -jnp.inf]])
    found = jax.grad(lambda x: divergence("forward", masked, x).sum())(jnp.zeros((1, 3)))
    np.testing.assert_allclose(found, [[-1 / 6, -1 / 6, 1 / 3]], atol=1e-6)


def test_eight_devices_train_like_one():
    teacher, config = teacher_of(knows_the_way()), dataclasses.replace(SMALL, updates=4, warmup_updates=1)
    found = []
    for devices in (1, 8):
        train = trainer(teacher, config, devices)
        state, metrics = train.run(train.init(), train.feed.tasks, 4)
        found.append(jax.device_get((state.params, state.lifetimes.task, metrics["last_return"])))
    chex.assert_trees_all_close(*found, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (None, r"learns from a trained model: set method.teacher to its run directory"),
        ({"task_ids": frozenset(["a", "b"])}, r"2 of its 2 are not among the 4 training tasks here.*tasks.split_seed"),
        ({"spec": dataclasses.replace(SPEC, values=(9, 9))}, r"runs/x is of other worlds than DarkRoom: it sees"),
        ({"spec": dataclasses.replace(SPEC, extra=(("hint", ()),))}, r"runs/x acts on hint, which its own method"),
    ],
)
def test_who_cannot_teach_is_refused(changes, told):
    teacher = None if changes is None else teacher_of(knows_the_way(), **changes)
    with pytest.raises(ConfigError, match=told):
        SMALL.make(setting(teacher))


def test_a_student_with_actions_in_a_box_is_refused():
    seen = dataclasses.replace(SPEC, action=Box((2,), -1.0, 1.0))
    s = dataclasses.replace(setting(teacher_of(knows_the_way())), seen_spec=seen)
    with pytest.raises(ConfigError, match=r"each of a number of actions is, and those of .* Use method=distillation"):
        SMALL.make(s)


@pytest.mark.parametrize("folder", ["", "runs/nowhere"])
def test_a_teacher_that_is_not_there_is_refused_before_anything_is_done(folder, tmp_path, capsys):
    words = ["run", "dark_room", "--scale", "smoke", "--dir", tmp_path / "run", "model=lstm"]
    words += ["method=on_policy_distillation", f"method.teacher={folder!r}"]
    refused(capsys, words, "method.teacher must be the run directory of a trained model", repr(folder))
    assert not (tmp_path / "run").exists()


def test_compress_puts_a_student_beside_its_teacher(tmp_path, capsys):
    e = override(load("dark_room", "smoke"), LITTLE)
    teacher = Run(e, tmp_path / "teacher")
    teacher.all()
    capsys.readouterr()
    options = ["model.hidden=8", "model.width=8", "model.mlp_width=8", "method.lifetimes=8"]
    options += ["method.updates=4", "method.warmup_updates=1", "method.lifetime_episodes=2"]
    assert main(["compress", str(tmp_path / "teacher"), *options]) == 0
    out = capsys.readouterr().out
    assert "decisions/s, batch 81" in out
    assert "times as fast" in out
    (folder,) = (tmp_path / "teacher" / "compressed").iterdir()
    assert read_json(folder / "config.json")["model"]["name"] == "lstm"
    agent = Agent.load(folder)
    assert agent.act([[4, 4]]).shape == (1,)
    # From Python, without a directory, the same student.
    student = student_of(e, tmp_path / "teacher", "lstm", options)
    learned = in_memory.train(student, None)
    chex.assert_trees_all_equal(jax.device_get(learned.params), jax.device_get(agent.params))
    refused(capsys, ["compress", tmp_path], "has no config.json: expected a run directory, evaluated")
    assert build(student).method.taught_by() == str(tmp_path / "teacher")
