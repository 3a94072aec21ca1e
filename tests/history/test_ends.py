"""How an episode ended, and what its last action led to, from the environment to the batch of a method that asks."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from history_helpers import flip, stored

from ad_jax import load_experiment, sources
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.experiment import build, override
from ad_jax.history import replay
from ad_jax.history.info import info
from ad_jax.history.manifest import Manifest
from ad_jax.history.replay import RotationConfig
from ad_jax.history.store import verify
from ad_jax.history.streaming import Rotation
from ad_jax.methods.base import Method, checked
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.supervised import Supervised
from ad_jax.run import in_memory
from ad_jax.run.collection import check_histories, make_manifest
from ad_jax.stage.collect import Collector, as_histories, beyond
from ad_jax.testing import check_method
from ad_jax.types import Discrete, Histories, Spec

ROOM = DarkRoom(size=3, steps=5, reward="terminate", start="corner")
SPEC = Spec(Discrete(5), (2,), (3, 3))
ASKED = ("reward", "terminated", "truncated", "next_observation")
NAMES = {"spec": SPEC, "reward_dtype": "uint8", "next_observation": True}
SMALL = [
    "env.size=3", "env.steps=5", "env.reward=terminate", "env.start=corner", "tasks.train=4", "tasks.held_out=2",
    "collect.seeds=2", "collect.episodes=6", "collect.chunk_learners=3", "replay.segment=8", "method.updates=4",
    "method.warmup_updates=1", "method.checkpoint_every=2",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Valued(Supervised):
    """Asks for everything; its loss at the first update tells what it was given, by `FIELD`."""

    field: str = "reward"
    needs: ClassVar[tuple[str, ...]] = ASKED

    def make(self, setting):
        def loss(params, batch, key):
            logits = setting.model.apply(params, batch.steps, key)
            return 0.0 * logits.mean() + batch.targets[self.field].astype(jnp.float32).mean()

        return Method(self.learner(setting, loss))


@pytest.fixture(scope="module")
def lived() -> Histories:
    """Return what Q-learning did in a room whose goal ends the episode."""
    tasks = ROOM.split(0, 4, 2).train
    source = sources.make("q_learning", {"exploration_episodes": 4.0}).make(ROOM)
    learners = Collector(ROOM, source, 8, mesh_of(), 8, next_observation=True)
    ids = ROOM.task_ids(tasks)
    return as_histories(learners.run(0, tasks, ids, 2, 0), tasks, ids, 2, 0, 8)


def simulated(action: np.ndarray, goal: np.ndarray) -> dict[str, list]:
    """Return the room in plain Python: what is seen before and after each action, and how each episode ends."""
    seen, reached, terminated, truncated = [], [], [], []
    cell, time = (0, 0), 0
    for move in action:
        seen.append(cell)
        cell = tuple(int(min(max(x + d, 0), 2)) for x, d in zip(cell, MOVES[move], strict=True))
        time += 1
        reached.append(cell)
        terminated.append(cell == tuple(goal))
        truncated.append(time == 5 and not terminated[-1])
        if terminated[-1] or truncated[-1]:
            cell, time = (0, 0), 0
    return {"observation": seen, "next_observation": reached, "terminated": terminated, "truncated": truncated}


def test_what_is_collected_is_an_independent_simulation_to_the_last_step_of_each_episode(lived):
    t = lived.transition
    assert t.terminated.any()
    assert t.truncated.any()
    for row, action in enumerate(t.action):
        for name, expected in simulated(action, lived.tasks["goal"][row]).items():
            np.testing.assert_array_equal(getattr(t, name)[row], expected, name)
    follows = (t.next_observation[:, :-1] == t.observation[:, 1:]).all(-1)
    assert follows[~t.done[:, :-1]].all()
    assert not follows[t.done[:, :-1]].all(), "where an episode ends, only the next observation tells what was reached"


@pytest.mark.parametrize("name", ["actor_critic", "ppo", "primal_dual", "dqn", "noisy_oracle"])
def test_every_source_says_what_its_actions_led_to(name):
    config = sources.make(name, {} if name == "noisy_oracle" else {"actors": 2, "hidden": (4,)})
    learners = Collector(ROOM, config.make(ROOM), 8, mesh_of(), 1, next_observation=True)
    tasks = ROOM.split(0, 1, 2).train
    ids = ROOM.task_ids(tasks)
    found = as_histories(learners.run(0, tasks, ids, 1, 0), tasks, ids, 1, 0, 1)
    assert found.transition.next_observation is not None
    for action, reached in zip(found.transition.action, found.transition.next_observation, strict=True):
        np.testing.assert_array_equal(reached, simulated(action, found.tasks["goal"][0])["next_observation"])


def needing() -> replay.Prepare:
    """Return what puts on the devices what `Valued` asks for."""
    prepare = checked(Method(learner=None), {}, ASKED)  # pyright: ignore[reportArgumentType]
    assert prepare is not None
    return prepare


@pytest.mark.parametrize("devices", [1, 4])
def test_the_batch_holds_what_the_environment_said_of_each_step(lived, devices):
    steps = lived.transition.action.shape[1]
    config, mesh = replay.Config(segment=steps, batch=16, groups=4), mesh_of(devices)
    resident = replay.load(lived, SPEC, config, mesh, needing())
    sample = jax.jit(lambda r, key: replay.sample(r, key, SPEC, config, mesh, needs=ASKED))
    drawn = replay.sampled_history_ids(resident, jax.random.key(1), config, mesh)
    batch, t = jax.device_get(sample(resident, jax.random.key(1))), lived.transition
    for name in ASKED:
        np.testing.assert_array_equal(batch.targets[name], getattr(t, name)[drawn], name)
    types = {name: x.dtype.name for name, x in batch.targets.items()}
    assert types == {
        "action": "int32", "reward": "float32", "terminated": "bool", "truncated": "bool", "next_observation": "int32"
    }  # fmt: skip
    np.testing.assert_array_equal(batch.steps.prev_done[:, 1:], t.done[drawn][:, :-1])
    plain = jax.jit(lambda r, key: replay.sample(r, key, SPEC, config, mesh))
    assert plain(resident, jax.random.key(1)).targets.keys() == {"action"}, "a method that asks for nothing"


def test_the_two_ends_take_the_room_of_one(lived):
    resident = replay.load(lived, SPEC, replay.Config(segment=5, batch=8), mesh_of())
    assert {name: x.dtype.itemsize for name, x in resident.steps.items()} == {
        "observation": 1, "action": 1, "reward": 1, "ends": 1
    }  # fmt: skip


def test_a_rotation_holds_the_same(lived, tmp_path):
    store = stored(tmp_path / "h", lived, 3, **NAMES)
    config = replay.Config(segment=8, batch=8, groups=2, keep_every=2, rotation=RotationConfig(4, parts=2, every=1))
    whole = replay.load(lived, SPEC, dataclasses.replace(config, rotation=None), mesh_of(), needing())
    where = {int(h): at for at, h in np.ndenumerate(np.asarray(whole.history)) if whole.length[at]}
    seen = set()
    with Rotation(store, SPEC, config, mesh_of(), 0, needing()) as residents:
        for step in range(6):
            held = residents.at(step)
            for at, number in np.ndenumerate(np.asarray(held.history)):
                seen.add(int(number))
                length = int(held.length[at]) + 1
                for name in ("ends", "next_observation"):
                    expected = np.asarray(whole.steps[name][where[int(number)]])[:length]
                    np.testing.assert_array_equal(np.asarray(held.steps[name][at])[:length], expected, name)
    assert seen == set(range(8))


@pytest.mark.slow
def test_a_method_learns_from_what_it_asks_for():
    e = override(load_experiment("dark_room", "smoke"), [*SMALL, "collect.next_observation=true"])
    histories = in_memory.collect(e)
    t, rows = histories.transition, histories.transition.action.shape
    constant = histories  # a field that is 1 everywhere: the mean of every batch is known
    for name, value in (("reward", np.ones(rows, np.uint8)), ("next_observation", np.full_like(t.observation, 2))):
        constant = dataclasses.replace(constant, transition=constant.transition.replace(**{name: value}))
    for field, expected in (("reward", 1.0), ("next_observation", 2.0)):
        losses = {}
        method = Valued(updates=2, warmup_updates=1, updates_per_dispatch=1, field=field)

        def show(step, metrics, losses=losses):
            return losses.update({step: metrics["loss"]})

        in_memory.train(dataclasses.replace(e, method=method), constant, show)
        assert losses == {1: expected, 2: expected}


def test_the_contract_of_methods_holds_for_one_that_asks():
    assert "updates sent together are updates sent apart" in check_method(Valued())


def test_what_nobody_collected_cannot_be_asked_for(lived):
    e = override(load_experiment("dark_room", "smoke"), SMALL)
    method = Valued(updates=4, warmup_updates=1)
    with pytest.raises(ConfigError, match=r"set collect\.next_observation=true"):
        build(dataclasses.replace(e, method=method))
    asking = override(dataclasses.replace(e, method=method), ["collect.next_observation=true"])
    without = dataclasses.replace(lived, transition=lived.transition.replace(next_observation=None))
    with pytest.raises(ConfigError, match=r"set collect\.next_observation=true"):
        in_memory.train(asking, without)

    @dataclasses.dataclass(frozen=True)
    class Odd(Distillation):
        needs = ("terminatd",)

    with pytest.raises(ConfigError, match="Did you mean 'terminated'"):
        build(dataclasses.replace(e, method=Odd(updates=4, warmup_updates=1)))


def test_a_source_that_does_not_say_what_its_actions_led_to_is_refused():
    source = sources.make("noisy_oracle").make(ROOM)

    def silent(key, state, task):
        state, stream = source.update(key, state, task)
        return state, stream.replace(next_observation=None)

    with pytest.raises(ConfigError, match=r"Let its update return outcome.transition"):
        Collector(ROOM, source._replace(update=silent), 4, mesh_of(), 1, next_observation=True)


class Leaves(DarkRoom):
    """The goal is seen as a cell that the room has not: only what comes before a reset shows it."""

    def step_env(self, key, state, action, params):
        observation, state, reward, ended, info = super().step_env(key, state, action, params)
        return jnp.where(ended, observation + 300, observation), state, reward, ended, info


def test_a_value_that_only_a_next_observation_shows_is_found(tmp_path, lived):
    family = Leaves(size=3, steps=5, reward="terminate", start="corner")
    tasks = family.split(0, 2, 2).train
    for asked in (False, True):
        source = sources.make("noisy_oracle").make(family)
        learners, ids = Collector(family, source, 4, mesh_of(), 2, next_observation=asked), family.task_ids(tasks)
        where = beyond(learners, learners.run(0, tasks, ids, 1, 0), ids, 1, 0, 2)
        assert (where is not None) == asked
    assert where and "observation component 0 is 30" in where
    spoilt = lived.transition.next_observation.copy()
    spoilt[5, 7] = 200
    whole = dataclasses.replace(lived, transition=lived.transition.replace(next_observation=spoilt))
    with pytest.raises(HistoryError, match=r"next_observation component 0 200, outside 0\.\.2, at step 7 of history 5"):
        replay.load(whole, SPEC, replay.Config(segment=5, batch=8), mesh_of())
    stored(tmp_path / "h", whole, 3, **NAMES)
    (problem,) = verify(tmp_path / "h")
    assert "chunk 1: next_observation component 0 200" in problem


def test_collections_say_that_they_hold_it_and_the_others_are_as_they_were(tmp_path, lived):
    store = stored(tmp_path / "with", lived, 3, **NAMES)
    assert "next_observation, before any reset" in info(tmp_path / "with")
    np.testing.assert_array_equal(store.read().transition.next_observation, lived.transition.next_observation)
    assert Manifest.from_json(store.manifest.to_json()) == store.manifest
    chunk = tmp_path / "with" / "arrays" / "next_observation" / "c" / "1"
    flip(next(path for path in chunk.rglob("*") if path.is_file()), 20)
    assert "next_observation" in verify(tmp_path / "with")[0]
    without = dataclasses.replace(lived, transition=lived.transition.replace(next_observation=None))
    stored(tmp_path / "without", without, 3, **NAMES | {"next_observation": False})
    assert "next_observation" not in (tmp_path / "without" / "manifest.json").read_text() + info(tmp_path / "without")
    assert not (tmp_path / "without" / "arrays" / "next_observation").exists()


def test_named_histories_that_lack_what_the_method_asks_for_are_refused():
    e = override(load_experiment("dark_room", "smoke"), [*SMALL, "collect.next_observation=true"])
    e, plain = (
        dataclasses.replace(e, method=Valued(updates=4, warmup_updates=1)),
        override(e, ["collect.next_observation=false"]),
    )
    manifest = make_manifest(plain, build(plain), {})
    with pytest.raises(HistoryError, match="hold no next_observation, which the method learns from"):
        check_histories(manifest, e, build(e), {}, "elsewhere", given=True)
    check_histories(
        make_manifest(e, build(e), {}), plain, build(plain), {}, "elsewhere", given=True
    )  # more than needed
