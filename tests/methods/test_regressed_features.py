"""Actor-Mimic's regression of features: a DQN's are stored on request, and the student predicts them."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from small_worlds import METHOD, MODEL, of, world

from ad_jax import MixtureRun, sources
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import spec_of, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import Member, build, load, override
from ad_jax.history.store import open_store
from ad_jax.keys import a_key
from ad_jax.methods.policy_distillation import CHANNEL, FEATURES, PolicyDistillation
from ad_jax.models.base import ModelConfig, empty_steps
from ad_jax.models.heads.beside import Beside
from ad_jax.sources import dqn
from ad_jax.stage.collect import Collector
from ad_jax.testing import check_method
from ad_jax.types import Batch

WIDTH = 6
TEACHER = dqn.DQN(
    actors=1, unroll=4, capacity=8, warmup=4, gradient_steps=1, batch=2, sequence=2, hidden=(8, WIDTH), epsilon=0.0
)
SHORT = {
    name: getattr(METHOD, name) for name in ("updates", "warmup_updates", "updates_per_dispatch", "checkpoint_every")
}
MIMIC = PolicyDistillation(**SHORT, features=0.5)


def taught(name: str, size: int, width: int = WIDTH):
    """Return an experiment with a DQN whose features are stored."""
    e = world(name, DarkRoom(size=size, steps=4), dataclasses.replace(TEACHER, hidden=(8, width)), 2, 4, 8)
    kept = dataclasses.replace(e.collect, preferences=True, features=width)
    return dataclasses.replace(e, collect=kept, method=MIMIC)


ROOM = taught("room", 3)


def test_what_is_stored_is_what_the_last_layer_saw_when_the_learner_acted():
    family, task = DarkRoom(size=3, steps=4), take(DarkRoom(size=3, steps=4).all_tasks(), 2)
    source = TEACHER.make(family)
    state, update = source.init(a_key(0), task), jax.jit(source.update)
    for step in range(3):
        before = state.params
        state, t = update(a_key(step), state, task)
        features = dqn.last_features(before, spec_of(family), t.observation[:, 0])
        np.testing.assert_allclose(t.features[:, 0], features, rtol=1e-5, atol=1e-6)
        head = jax.device_get(before["head"])
        values = np.asarray(features) @ head["weight"] + head["bias"]
        np.testing.assert_allclose(t.preferences[:, 0], values, rtol=1e-5, atol=1e-6)
        assert np.abs(t.features).max() > 0


def test_storing_them_changes_nothing_else():
    family = DarkRoom(size=3, steps=4)
    tasks = take(family.all_tasks(), np.array([0, 5]))

    def lived(**asked):
        learners = Collector(family, TEACHER.make(family), 4, mesh_of(), 2, preferences=True, **asked)
        return jax.device_get(learners.run(0, tasks, family.task_ids(tasks), 1, 0).transition)

    plain, more = lived(), lived(features=WIDTH)
    assert plain.features is None
    assert (more.features.dtype, more.features.shape) == (np.float32, (2, 1, 16, WIDTH))
    jax.tree.map(np.testing.assert_array_equal, plain, more.replace(features=None))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["collect.features=None"], r"set collect\.features to how many numbers that is"),
        (["method.features=0"], r"method\.features is a weight above 0 and finite; got 0"),
        (
            ["method.features=None", "method.feature_width=6"],
            r"method\.feature_width=6 is of features that are regressed",
        ),
        (["method.feature_width=7"], r"method\.feature_width=7 must be collect\.features=6"),
        (["collect.features=0"], r"collect\.features must be at least 1; got 0"),
        (["model=dpt"], r"policy distillation gives its model a head of its own, which model=dpt does not take"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(ROOM, changes))


def test_a_source_without_features_or_with_others_is_refused():
    family = DarkRoom(size=3, steps=4)
    for name, asked, told in (
        ("q_learning", 6, r"collect\.features=6 needs a source whose transitions hold features.*source=dqn does"),
        ("dqn", 6, r"collect\.features=6 is how many features .* this source has 64\. Set it to that"),
    ):
        with pytest.raises(ConfigError, match=told):
            Collector(family, sources.make(name).make(family), 4, mesh_of(), 1, features=asked)


def made(method: PolicyDistillation, e=ROOM):
    """Return the loss, the model and a batch of made-up steps of an experiment with that method."""
    p = build(dataclasses.replace(e, method=method))
    found = p.method.make(p.setting(e, mesh_of())).learner.loss
    assert found is not None
    rng, rows = np.random.default_rng(0), (4, 8)
    steps = empty_steps(p.seen_spec, *rows)
    steps = steps.replace(
        observation=jnp.asarray(rng.integers(0, 3, (*rows, 2)), jnp.int32),
        extra={CHANNEL: jnp.asarray(rng.normal(size=steps.extra[CHANNEL].shape), jnp.float32)},
    )
    held = jnp.asarray(rng.normal(size=(*rows, 5)), jnp.float32)
    told = jnp.asarray(rng.normal(size=(*rows, WIDTH)), jnp.float32)
    action = jnp.zeros(rows, jnp.int32)
    return found, p.model, Batch(steps, {"action": action, "preferences": held, FEATURES: told})


def test_its_part_of_the_loss_is_its_weight_times_the_squared_distance():
    loss, model, batch = made(MIMIC)
    heavier = made(dataclasses.replace(MIMIC, features=2.0))[0]
    params, key = model.init(a_key(3)), a_key(4)
    assert isinstance(model.head, Beside)
    said = np.asarray(model.head.of_more(jax.jit(model.apply)(params, batch.steps, key)), np.float64)
    distance = ((said - np.asarray(batch.targets[FEATURES])) ** 2).sum(-1).mean()
    found = float(jax.jit(heavier)(params, batch, key)) - float(jax.jit(loss)(params, batch, key))
    assert found == pytest.approx(1.5 * distance, rel=1e-4)


def test_features_that_are_linear_in_the_students_are_regressed_to_nothing():
    """The student's trunk stays: its head alone, by gradient descent on what other weights of that head say."""
    loss, model, batch = made(MIMIC)
    bare, *_ = made(dataclasses.replace(MIMIC, features=1e-9))  # the divergence, to rounding
    params, key = model.init(a_key(3)), a_key(4)
    other = params | {"head": jax.tree.map(lambda x: jax.random.normal(a_key(5), x.shape), params["head"])}
    assert isinstance(model.head, Beside)
    targets = batch.targets | {FEATURES: model.head.of_more(jax.jit(model.apply)(other, batch.steps, key))}
    batch = batch.replace(targets=targets)

    @jax.jit
    def regression(head):
        now = params | {"head": head}
        return (loss(now, batch, key) - bare(now, batch, key)) / 0.5

    @jax.jit
    def descend(head):
        def step(head, _):
            return jax.tree.map(lambda x, g: x - 0.02 * g, head, jax.grad(regression)(head)), None

        return jax.lax.scan(step, head, length=1000)[0]

    start = float(regression(params["head"]))
    assert float(regression(other["head"])) == pytest.approx(0, abs=1e-4)
    assert float(regression(descend(params["head"]))) < 1e-2 * start


def test_without_the_option_model_and_program_are_those_of_the_divergence_alone():
    method = dataclasses.replace(MIMIC, features=None)
    loss, model, batch = made(method)
    config: ModelConfig = MODEL
    p = build(dataclasses.replace(ROOM, method=method))
    shapes = [jax.eval_shape(m.init, a_key(0)) for m in (model, config.bind(p.family).make(p.seen_spec))]
    assert shapes[0] == shapes[1]
    assert FEATURES not in method.channels(p.family, p.spec)

    def alone(params, batch, key):
        student = jax.nn.log_softmax(model.apply(params, batch.steps, key))
        teacher = jax.nn.log_softmax(batch.targets["preferences"] / method.temperature)
        return (jnp.exp(teacher) * (teacher - student)).sum(-1).mean()

    arguments = shapes[0], batch, a_key(0)
    assert str(jax.make_jaxpr(loss)(*arguments)) == str(jax.make_jaxpr(alone)(*arguments))


@pytest.mark.slow
def test_a_family_never_trained_on_is_given_the_features_of_others_and_a_resumed_run_ends_with_the_same_bits(tmp_path):
    """The student's trunk of one world stays, to the bit, where another world's own layers are fitted to it."""
    mixture = of(ROOM, Member(taught("hall", 4, 5), held_out=True), method=MIMIC)
    run = MixtureRun(mixture, tmp_path / "run")
    run.collect()
    run.distill()

    def params_in(where):
        return jax.device_get(checkpoint.load(run.folder / where)[1]["params"])

    held = open_store(run.folder / "members" / "room" / "histories")
    assert (held.manifest.features, held.read().transition.features.shape) == (WIDTH, (8, 16, WIDTH))
    whole, fitted = params_in("."), params_in("members/hall")
    assert whole["head"]["room"]["bias"].shape == (5 + WIDTH,)
    assert fitted["head"]["bias"].shape == (5 + 5,)
    trunk = {part: tree for part, tree in whole.items() if part not in ("head", "tokens")}
    jax.tree.map(np.testing.assert_array_equal, trunk, {part: fitted[part] for part in trunk})
    for where in (".", "members/hall"):
        shutil.rmtree(run.folder / where / "checkpoints" / "steps" / "4")
    MixtureRun(mixture, run.folder).distill()
    jax.tree.map(np.testing.assert_array_equal, (whole, fitted), (params_in("."), params_in("members/hall")))


def test_the_smoke_experiment_learns_from_a_dqn_by_its_options_alone():
    changes = ["method=policy_distillation", "source=dqn", "collect.preferences=true", "collect.features=64"]
    p = build(override(load("dark_room", "smoke"), [*changes, "method.features=0.01"]))
    assert isinstance(p.method, PolicyDistillation)
    assert (p.method.feature_width, p.model.head.more) == (64, 64)


@pytest.mark.slow
def test_it_keeps_the_contract_of_methods():
    """The public check collects what the method learns from."""
    assert check_method(PolicyDistillation(features=0.1))
