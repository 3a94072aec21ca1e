"""Real-valued actions from the source to the store and back: stored as they were done, or named."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from helpers import mesh_of

from ad_jax.envs.base import advance, reset, spec_of
from ad_jax.envs.point_mass import PointMass
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.history import replay
from ad_jax.history.info import info
from ad_jax.history.store import HistoryWriter, Manifest, open_store, verify
from ad_jax.history.streaming import Rotation
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.stage.collect import Collector, as_histories, beyond

FAMILY, EPISODES, CHUNK = PointMass(steps=4), 4, 3
SPEC, TASKS = spec_of(FAMILY), FAMILY.sample_tasks(jax.random.key(0), 6)
IDS = FAMILY.task_ids(TASKS)


@struct.dataclass
class Pushing(SourceConfig):
    """It acts by chance, but for `push` in component 1 of step 6 of tasks with a heavy body."""

    push: float = struct.field(pytree_node=False, default=0.5)
    shape: tuple[int, ...] = struct.field(pytree_node=False, default=(2,))

    def make(self, family):
        def init(key, task):
            return *reset(family, key, task), jnp.int32(0)

        def update(key, state, task):
            def step(carry, key):
                observation, env_state, time = carry
                key_action, key_env = jax.random.split(key)
                action = jax.random.uniform(key_action, self.shape, jnp.float32, minval=-1.0)
                pushed = action.at[-1].set(self.push) if self.shape else action
                action = jnp.where((time == 6) & (task.mass > 1), pushed, action)
                after, env_state, outcome = advance(family, key_env, env_state, action, task)
                t = outcome.transition(observation, action)
                return (after, env_state, time + 1), jax.tree.map(lambda x: x[None], t)

            return jax.lax.scan(step, state, jax.random.split(key, 4))

        return Source(init, update, steps_per_update=4, actors=1)


def lived(config, first=0):
    """Histories of a chunk, and what cannot be of it."""
    collector = Collector(FAMILY, config.make(FAMILY), EPISODES, mesh_of(), CHUNK)
    lifetime = collector.run(3, TASKS, IDS, 1, first)
    return as_histories(lifetime, TASKS, IDS, 1, first, CHUNK), beyond(collector, lifetime, IDS, 1, first, CHUNK)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two chunks, as a collection."""
    folder = str(tmp_path_factory.mktemp("real") / "h")
    chunks = [lived(Pushing(), first)[0] for first in (0, CHUNK)]
    shapes = chunks[0].tasks.items()
    leaves: dict[str, Any] = {name: {"shape": list(x.shape[1:]), "dtype": x.dtype.name} for name, x in shapes}
    m = Manifest(
        family={"name": "point_mass", "options": {"steps": 4}},
        source={"name": "pushing", "config": {}, "actors": 1},
        spec=SPEC,
        task_leaves=leaves,
        reward_dtype="float32",
        histories=2 * CHUNK,
        steps=4 * EPISODES,
        episode_length=4,
        chunk_histories=CHUNK,
        provenance={},
    )
    with HistoryWriter.open(folder, m) as writer:
        for number, chunk in enumerate(chunks):
            writer.write(number, chunk)
    return folder, chunks


def test_actions_come_back_as_they_were_done(stored):
    folder, chunks = stored
    found, first = open_store(folder).read().transition, chunks[0].transition
    assert found.action.dtype == np.float32 and found.action.shape == (2 * CHUNK, 16, 2)
    np.testing.assert_array_equal(found.action[:CHUNK], first.action)
    speed = first.observation[:, 1, 2:]  # what the first action did to a body at rest
    np.testing.assert_array_equal(np.sign(speed), np.sign(first.action[:, 0]))
    assert verify(folder) == [] and "[2] float32 from -1 -1 to 1 1" in info(folder)


def test_histories_in_turns_are_those_in_memory(stored):
    """A rotation of all of them at once draws what the replay of all of them draws from."""
    folder, _ = stored
    options = replay.Config(segment=8, batch=8, groups=2)
    whole = replay.load(open_store(folder).read(), SPEC, options, mesh_of())
    turns = dataclasses.replace(options, rotation=replay.RotationConfig(4, parts=1, every=1))
    seen = set()
    with Rotation(open_store(folder), SPEC, turns, mesh_of(), 0) as residents:
        for step in range(4):
            there = residents.at(step)
            assert there.steps["action"].shape[-1] == 2 and there.steps["action"].dtype == jnp.float32
            np.testing.assert_array_equal(there.steps["action"][:, :, 0], 0)
            seen |= {row.tobytes() for row in np.asarray(there.steps["action"]).reshape(-1, 17, 2)}
    assert seen <= {row.tobytes() for row in np.asarray(whole.steps["action"]).reshape(-1, 17, 2)}
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("push", "told"),
    [
        (1.5, "action component 1 is 1.5, outside -1..1"),
        (-1.001, "action component 1 is -1.0010000467300415, outside -1..1"),
        (float("nan"), "action component 1 is nan, no finite number"),
        (float("inf"), "action component 1 is inf, no finite number"),
    ],
)
def test_an_action_that_cannot_be_is_named_by_task_step_and_component(push, told):
    heavy = int(np.argmax(np.asarray(TASKS.mass)[:CHUNK] > 1))
    _, found = lived(Pushing(push))
    assert found is not None and told in found
    assert f"at step 6 of its history {heavy} (task {IDS[heavy]}, seed 0, actor 0)" in found
    assert "squash or clip" in found


def test_a_bound_is_met_to_rounding():
    assert lived(Pushing(float(np.nextafter(np.float32(1), np.float32(2)))))[1] is None


@pytest.mark.parametrize("shape", [(), (3,)])
def test_an_action_of_another_form_is_refused_before_anything_runs(shape):
    with pytest.raises(ConfigError, match=re.escape(f"action of float32{list(shape)}; expected float32[2]")):
        lived(Pushing(shape=shape))


@pytest.mark.parametrize("value", [1.5, np.nan, -np.inf])
def test_stored_actions_that_cannot_be_are_named_when_they_are_loaded(stored, value):
    histories = open_store(stored[0]).read()
    action = np.array(histories.transition.action)
    action[4, 9, 1] = value
    spoilt = dataclasses.replace(histories, transition=histories.transition.replace(action=action))
    with pytest.raises(HistoryError, match=rf"action .*{value}.* at step 9 of history 4 \(task {IDS[4]}"):
        replay.load(spoilt, SPEC, replay.Config(segment=8, batch=8, groups=2), mesh_of())
