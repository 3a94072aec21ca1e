"""Distilling: eight devices are one, a killed run ends like an uninterrupted one, options do what they are called."""

import copy
import dataclasses
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import GRID, mesh_of, numbered_histories, trainer_of
from jax import stages

from ad_jax.checkpoint import checkpoint
from ad_jax.errors import CheckpointError, ConfigError, TrainingDivergedError
from ad_jax.history import replay
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.supervised import cross_entropy, gradient
from ad_jax.models.transformer import Transformer
from ad_jax.process import metrics
from ad_jax.stage import train as train_lib
from ad_jax.types import Batch, Steps

MODEL = Transformer(layers=2, width=16, heads=4, mlp_width=32, window=6, token_mask=0.2, dropout=0.1).make(GRID)
SAMPLING = replay.Config(segment=8, batch=16, groups=8)
TINY = Distillation(updates=6, warmup_updates=2, learning_rate=1e-2, updates_per_dispatch=3, checkpoint_every=2)


@jax.jit
def sample(resident: replay.Replay, key: jax.Array) -> Batch:
    return replay.sample(resident, key, GRID, SAMPLING, mesh_of())


def rewarded(resident: replay.Replay, change) -> replay.Replay:
    """Return the same residents with other rewards."""
    return resident.replace(steps=resident.steps | {"reward": change(resident.steps["reward"])})


@pytest.fixture(scope="module")
def trained():
    """One trainer and replay on one device for every test that needs no other."""
    return trainer_of(MODEL, GRID, TINY, SAMPLING, mesh_of(), seed=1), load(mesh_of())


def load(mesh):
    return replay.load(numbered_histories(16, 24), GRID, SAMPLING, mesh)


def drawn(trainer, resident, step):
    """Numbers of the histories that the update after `step` learns from, `[B]`."""
    return trainer.feed.sampled_history_ids(resident, trainer.key(step))


def meta_of(trainer):
    return {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}


def train(trainer, resident, folder, config=TINY, **options):
    folder.mkdir(exist_ok=True)
    log = metrics.MetricsLog(folder, metrics.Config())
    return train_lib.train(trainer, resident, config, folder / "checkpoints", meta_of(trainer), log, **options)


def final_state(trainer, folder):
    with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(trainer.abstract_state)[:2])


@pytest.mark.parametrize(
    "axes", [(2, 2, 2), *(pytest.param(axes, marks=pytest.mark.slow) for axes in ((8, 1, 1), (1, 4, 2)))]
)
def test_eight_devices_train_like_one(trained, axes):
    trainer, resident = trained
    count = jnp.int32(3)
    one, facts = trainer.run(trainer.init(), resident, count)
    mesh = mesh_of(*axes)
    other = trainer_of(MODEL, GRID, TINY, SAMPLING, mesh, seed=1)
    many, others = other.run(other.init(), load(mesh), count)
    np.testing.assert_allclose(facts["loss"], others["loss"], rtol=1e-5)
    np.testing.assert_allclose(facts["grad_norm"], others["grad_norm"], rtol=1e-4)
    # Adam divides by the gradient's size: where that is nearly zero, rounding is a large part of it.
    chex.assert_trees_all_close(*jax.device_get((one.params, many.params)), rtol=0, atol=2e-4)


def test_parameters_and_optimizer_state_are_really_split():
    trainer = trainer_of(MODEL, GRID, TINY, SAMPLING, mesh_of(2, 2, 2), seed=1)
    state = trainer.init()
    for tree in (state.params, state.opt_state[1][0].mu):
        kernel = tree["block_0"]["up"]["kernel"]
        assert kernel.shape == (16, 32)
        assert kernel.addressable_shards[0].data.shape == (8, 16), "fsdp x tensor"


def test_seeds_share_their_programs_and_nothing_else(trained, monkeypatch):
    trainer, resident = trained
    texts, losses, original = [], [], stages.Lowered.compile

    def compile_and_keep(lowered, *args, **options):
        texts.append(lowered.as_text())
        return original(lowered, *args, **options)

    monkeypatch.setattr(stages.Lowered, "compile", compile_and_keep)
    for seed in (1, 2):
        one = trainer_of(MODEL, GRID, TINY, SAMPLING, mesh_of(), seed=seed)
        losses.append(np.asarray(one.compiled(resident)(one.init(), resident, jnp.int32(3))[1]["loss"]))
    assert texts[0] == texts[1]
    assert (losses[0] != losses[1]).all()
    np.testing.assert_array_equal(losses[0], trainer.run(trainer.init(), resident, jnp.int32(3))[1]["loss"])


def test_the_step_is_compiled_once_and_its_count_is_dynamic(trained):
    trainer, resident = trained
    state = trainer.init()
    for count in (1, 3, 2):
        state, _ = trainer.run(state, resident, jnp.int32(count))
    assert trainer.loop._cache_size() == 1
    assert int(state.step) == 6


def test_killed_after_every_step_and_resumed_ends_bit_equal(trained, tmp_path):
    trainer, resident = trained
    whole = dataclasses.replace(TINY, updates=5, checkpoint_every=5)
    config = dataclasses.replace(TINY, updates=5, checkpoint_every=1)
    trainer = trainer_of(MODEL, GRID, whole, SAMPLING, mesh_of(), seed=1)
    train(trainer, resident, tmp_path / "whole", whole)

    class KilledError(Exception):
        pass

    for update in range(1, 5):

        def stop(params, update=update):
            raise KilledError

        with pytest.raises(KilledError):  # dies in the update after the checkpoint that it goes on from
            train(
                trainer,
                resident,
                tmp_path / "killed",
                dataclasses.replace(config, evaluate_every=update + 1),
                evaluate=stop,
            )
    train(trainer, resident, tmp_path / "killed", config)
    chex.assert_trees_all_equal(final_state(trainer, tmp_path / "whole"), final_state(trainer, tmp_path / "killed"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "the resumed log reads like an uninterrupted one"


def test_a_finished_run_does_nothing_more(trained, tmp_path):
    trainer, resident = trained
    train(trainer, resident, tmp_path)
    before = final_state(trainer, tmp_path)
    assert train(trainer, resident, tmp_path).step == 6
    chex.assert_trees_all_equal(before, final_state(trainer, tmp_path))


def test_a_checkpoint_restores_onto_another_mesh(trained, tmp_path):
    trainer, resident = trained
    train(trainer, resident, tmp_path)
    other = trainer_of(MODEL, GRID, TINY, SAMPLING, mesh_of(2, 2, 2), seed=1)
    chex.assert_trees_all_equal(final_state(trainer, tmp_path), final_state(other, tmp_path))


def test_another_architecture_is_refused_and_named(trained, tmp_path):
    trainer, resident = trained
    train(trainer, resident, tmp_path)
    wider = Transformer(layers=2, width=16, heads=4, mlp_width=64, window=6).make(GRID)
    other = trainer_of(wider, GRID, TINY, SAMPLING, mesh_of(), seed=1)
    with pytest.raises(
        CheckpointError, match=r"another architecture.*block_0.down.kernel \(\[32, 16\] there, \[64, 16\] here\)"
    ):
        train(other, resident, tmp_path)


def test_a_diverged_run_names_the_update_and_keeps_the_last_good_checkpoint(trained, tmp_path):
    trainer, resident = trained
    poisoned = rewarded(resident, lambda reward: jnp.full(reward.shape, jnp.nan, jnp.float32))
    train(trainer, resident, tmp_path, dataclasses.replace(TINY, updates=2))
    before = final_state(trainer, tmp_path)
    with pytest.raises(TrainingDivergedError, match="update 3: loss nan"):
        train(trainer, poisoned, tmp_path)
    chex.assert_trees_all_equal(before, final_state(trainer, tmp_path))


class Late:
    """Losses on the device, that say when they are waited for."""

    def __init__(self, values, waited):
        self.values, self.waited = values, waited

    def __array__(self, dtype=None, copy=None):
        self.waited()
        return np.asarray(self.values)


def test_a_dispatch_is_sent_before_the_losses_of_the_last_are_read(trained, tmp_path):
    """But not past a checkpoint, which holds nothing that was not looked at."""
    trainer, order = copy.copy(trained[0]), []

    def run(state, resident, count):
        state, metrics = trained[0].run(state, resident, count)
        order.append(f"send {int(state.step)}")

        def told(step=int(state.step)):
            return order.append(f"read {step}")

        return state, metrics | {"loss": Late(metrics["loss"], told)}

    trainer.compiled = lambda _: run
    train(trainer, trained[1], tmp_path, dataclasses.replace(TINY, updates_per_dispatch=1, checkpoint_every=3))
    once = ["send 1", "send 2", "read 1", "send 3", "read 2", "read 3"]
    assert order == [*once, "send 4", "send 5", "read 4", "send 6", "read 5", "read 6"]


@pytest.fixture(scope="module")
def poisoned(trained):
    """Return a replay with one history whose rewards are NaN, its number, and the one update of six that draws it."""
    trainer, _ = trained
    resident = replay.load(numbered_histories(128, 24), GRID, SAMPLING, mesh_of())
    met = [set(drawn(trainer, resident, step).tolist()) for step in range(6)]
    once = {h: [u for u in range(6) if h in met[u]] for h in range(128)}
    history, (step,) = next((h, at) for h, at in once.items() if len(at) == 1 and at[0] in (3, 4))
    here = (resident.history == history)[..., None]
    return rewarded(resident, lambda reward: jnp.where(here, jnp.nan, reward)), history, step + 1


def test_a_batch_is_drawn_from_the_histories_that_are_named(trained):
    trainer, _ = trained
    resident = load(mesh_of())
    batch = sample(resident, jax.random.split(trainer.key(4))[0])
    history = np.asarray(batch.steps.observation)[:, 0, 0]  # modulo 9
    np.testing.assert_array_equal(drawn(trainer, resident, 4) % 9, history)


@pytest.mark.parametrize("skip", [None, 0])
def test_an_update_that_diverged_is_named_with_its_histories(trained, poisoned, tmp_path, skip):
    resident, history, update = poisoned
    config = dataclasses.replace(TINY, skip_updates=skip)
    with pytest.raises(
        TrainingDivergedError, match=rf"update {update}: loss nan.*of histories .*method.skip_updates"
    ) as e:
        train(trained[0], resident, tmp_path, config)
    told = str(e.value).split("of histories ")[1].split(".")[0]
    each = sorted(set(drawn(trained[0], resident, update - 1).tolist()))
    assert told == ", ".join(map(str, each[:8])) + f" and {len(each) - 8} more"
    assert history in each


def test_training_goes_back_and_leaves_an_update_out(trained, poisoned, tmp_path, capsys):
    trainer, (resident, _, update) = trained[0], poisoned
    state, _ = trainer.run(trainer.init(), resident, jnp.int32(3))
    for step in range(3, 6):
        if step == update - 1:
            state = state.replace(step=state.step + 1)
        else:
            state, _ = trainer.run(state, resident, jnp.int32(1))
    train(trainer, resident, tmp_path, dataclasses.replace(TINY, skip_updates=1))
    assert f"on without update {update}" in capsys.readouterr().out
    step, found = final_state(trainer, tmp_path)
    assert step == 6
    chex.assert_trees_all_equal(found, jax.device_get(state))
    chex.assert_tree_all_finite(found.params)
    assert checkpoint.load(tmp_path)[2]["skipped"] == [update]


@pytest.mark.slow
def test_a_killed_run_remembers_what_it_leaves_out(trained, poisoned, tmp_path):
    trainer, (resident, _, update) = trained[0], poisoned
    config = dataclasses.replace(TINY, skip_updates=1, checkpoint_every=1)
    train(trainer, resident, tmp_path / "whole", config)

    class KilledError(Exception):
        pass

    def stop(params):
        raise KilledError

    late = dataclasses.replace(config, evaluate_every=update + 1)
    with pytest.raises(KilledError):
        train(trainer, resident, tmp_path / "killed", late, evaluate=stop)
    train(trainer, resident, tmp_path / "killed", dataclasses.replace(config, skip_updates=None))
    chex.assert_trees_all_equal(final_state(trainer, tmp_path / "whole"), final_state(trainer, tmp_path / "killed"))


def test_the_best_checkpoint_is_the_one_with_the_best_in_context_return(trained, tmp_path):
    trainer, resident = trained
    returns = iter([1.0, 5.0, 2.0])
    config = dataclasses.replace(TINY, evaluate_every=2)
    train(trainer, resident, tmp_path, config, evaluate=lambda params: next(returns))
    step, _, meta = checkpoint.load(tmp_path, "best")
    assert (step, meta["in_context_return"]) == (4, 5.0)
    assert checkpoint.load(tmp_path, "last")[0] == 6


def test_a_damaged_checkpoint_is_named(trained, tmp_path):
    trainer, resident = trained
    train(trainer, resident, tmp_path)
    for file in (tmp_path / "checkpoints" / "steps" / "6" / "meta").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00")
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*steps/6"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="no last checkpoint under"):
        checkpoint.load(tmp_path / "nowhere")


def test_clipping_is_by_the_global_norm():
    optimizer = dataclasses.replace(TINY, clip_norm=1.0).make_optimizer()
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    grads = {"a": jnp.full((2, 2), 30.0), "b": jnp.full(3, 40.0)}
    clip = optax.chain(optax.clip_by_global_norm(1.0))
    clipped, _ = clip.update(grads, clip.init(params))
    state = optimizer.init(params)
    for _ in range(3):  # the first update of the warm-up has rate 0
        _, state = optimizer.update(grads, state, params)
    mu = optax.tree.get(state, "mu")
    scale = 1 - TINY.b1**3
    jax.tree.map(lambda m, c: np.testing.assert_allclose(m, c * scale, rtol=1e-5), mu, clipped)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_weight_decay_shrinks_matrices_and_leaves_vectors(optimizer):
    config = dataclasses.replace(TINY, weight_decay=0.5, optimizer=optimizer, warmup_updates=0)
    params = {"kernel": jnp.ones((4, 4)), "scale": jnp.ones(4)}
    rule: Any = config.make_optimizer()
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    assert float(updates["kernel"].max()) < 0
    np.testing.assert_array_equal(updates["scale"], 0)


def test_accumulated_gradients_equal_the_whole_batch():
    model = Transformer(layers=1, width=8, heads=2, mlp_width=16, window=6).make(GRID)  # nothing random in it
    params = jax.jit(model.init)(jax.random.key(0))
    batch = sample(load(mesh_of()), jax.random.key(1))
    whole, parts = (
        jax.jit(lambda p, b, n=n: gradient(cross_entropy(model), p, b, jax.random.key(2), n, 8))(params, batch)
        for n in (1, 2)
    )
    chex.assert_trees_all_close(whole, parts, rtol=0, atol=1e-5)


def test_label_smoothing_against_its_formula():
    logits = jnp.log(jnp.array([[[0.7, 0.1, 0.1, 0.05, 0.05]]]))
    model = MODEL._replace(apply=lambda params, steps, key: logits)
    action = jnp.array([[0]])
    steps = Steps(
        observation=jnp.zeros((1, 1, 2), jnp.int32),
        prev_action=action,
        prev_reward=jnp.zeros((1, 1)),
        prev_done=jnp.zeros((1, 1), bool),
    )
    targets = np.array([0.8 + 0.04, 0.04, 0.04, 0.04, 0.04])
    batch: Any = Batch(steps, {"action": action})
    loss = cross_entropy(model, label_smoothing=0.2)({}, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, -(targets * np.asarray(logits[0, 0])).sum(), rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(model)({}, batch, jax.random.key(0)), -np.log(0.7), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_the_loss_falls(trained, tmp_path, optimizer):
    """Actions here follow from time, which the context shows: a few updates must learn some of it."""
    resident = rewarded(trained[1], jnp.zeros_like)  # numbers in the thousands drown the rest
    config = dataclasses.replace(TINY, updates=60, warmup_updates=5, updates_per_dispatch=20, checkpoint_every=60)
    config = dataclasses.replace(config, optimizer=optimizer)
    trainer = trainer_of(MODEL, GRID, config, SAMPLING, mesh_of(), seed=1)
    first = float(trainer.run(trainer.init(), resident, jnp.int32(1))[1]["loss"][0])
    assert train(trainer, resident, tmp_path, config).facts["loss"] < 0.6 * first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"updates": 0}, "method.updates must be at least 1"),
        ({"warmup_updates": 6}, "below method.updates=6"),
        ({"accumulate": 3}, "method.accumulate=3 must divide"),
        ({"label_smoothing": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        trainer_of(MODEL, GRID, dataclasses.replace(TINY, **change), SAMPLING, mesh_of(), seed=1)
