"""Watermaze: dynamics and pictures against plain references, pictures bit for bit wherever they are drawn."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, unused
from pools import TINY, poses

from ad_jax import envs, sources
from ad_jax.agent import Agent
from ad_jax.envs import raycast
from ad_jax.envs.base import advance, seen_spec_of, spec_of, take
from ad_jax.envs.raycast import RADIUS, TURN
from ad_jax.envs.watermaze import BODY, Watermaze
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.history import replay, store
from ad_jax.models.base import Model
from ad_jax.policies.base import from_model
from ad_jax.run.collection import make_manifest
from ad_jax.run.pipeline import Run
from ad_jax.stage import evaluate
from ad_jax.stage.rollout import make_evaluator
from ad_jax.testing import check_env, check_source
from ad_jax.types import Histories, Transition


@functools.partial(jax.jit, static_argnums=0)
def play(family, key, task, actions):
    """Observations acted on and outcomes `[T, ...]` of given actions."""

    def step(carry, x):
        observation, state, outcome = advance(family, x[1], carry[1], x[0], task)
        return (observation, state), (carry[0], outcome)

    keys = jax.random.split(key, len(actions) + 1)
    return jax.lax.scan(step, family.reset_env(keys[0], task), (actions, keys[1:]))[1]


# --- Dynamics ---


@pytest.mark.parametrize("heading", ["random", "fixed"])
@pytest.mark.parametrize("reward", ["once", "terminate"])
def test_watermaze_equals_a_plain_simulator(reward, heading):
    """Each step from the pose before it, in float64 with real trigonometry; whole numbers differ by 2 at most."""
    family = Watermaze(steps=30, reward=reward, heading=heading)
    tasks = family.sample_tasks(jax.random.key(0), 40)
    rng = np.random.default_rng(0)
    actions = rng.choice(8, (40, 95), p=[0.3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.2, 0.1]).astype(np.int32)
    lifetimes = jax.vmap(lambda key, task, actions: play(family, key, task, actions))
    observed, outcome = jax.tree.map(np.asarray, lifetimes(jax.random.split(jax.random.key(1), 40), tasks, actions))
    reached_at_all, at_wall, starts = 0, 0, set()
    for n in range(40):
        goal, time, found = np.asarray(tasks.platform[n]), 0, False
        for t in range(95):
            (x, y, heading_now), after = observed[n, t], outcome.next_observation[n, t]
            if time == 0:
                assert (x, y) == (RADIUS, RADIUS), "every episode starts in the middle"
                starts.add(int(heading_now))
            action = ["forward", "back", "left", "right", "look left", "look right", "veer left", "veer right"][
                actions[n, t]
            ]
            turned = 22.5 * (action.split()[-1] == "left") - 22.5 * (action.split()[-1] == "right")
            turned = turned if action.split()[0] in ("look", "veer") else 0
            degrees = heading_now * 360 / TURN + turned
            assert after[2] == round(degrees * TURN / 360) % TURN
            to = {"forward": 0, "veer left": 0, "veer right": 0, "back": 180, "left": 90, "right": -90}.get(action)
            place = np.array([x, y], float) - RADIUS
            if to is not None:
                way = math.radians(degrees + to)
                place = place + round(0.1 * RADIUS) * np.array([math.cos(way), math.sin(way)])
            if np.hypot(*place) > RADIUS - BODY:
                place, at_wall = place * (RADIUS - BODY) / np.hypot(*place), at_wall + 1
            now = after[:2].astype(float) - RADIUS
            assert np.abs(now - place).max() <= 2
            assert np.hypot(*now) <= RADIUS - BODY
            here = np.hypot(*(now - goal)) <= round(0.15 * RADIUS)
            reached_at_all += here
            assert outcome.reward[n, t] == (here and not found)
            found, time = found or here, time + 1
            assert outcome.terminated[n, t] == (here and reward == "terminate")
            assert outcome.truncated[n, t] == (time == 30 and not outcome.terminated[n, t])
            if outcome.done[n, t]:
                time, found = 0, False
            else:
                np.testing.assert_array_equal(after, observed[n, t + 1] if t < 94 else after)
    assert reached_at_all > 5
    assert at_wall > 10
    assert starts == {0} if heading == "fixed" else len(starts) > 50


def test_platforms_lie_in_the_pool_off_the_start_and_evenly():
    tasks = Watermaze().sample_tasks(jax.random.key(3), 20_000)
    distance = np.hypot(*np.asarray(tasks.platform).T) / RADIUS
    assert distance.min() > 0.25 - 1e-3
    assert distance.max() < 0.85 + 1e-3
    inner = (0.55**2 - 0.25**2) / (0.85**2 - 0.25**2)  # share of the area
    assert abs(np.mean(distance < 0.55) - inner) < 5 * 0.5 / math.sqrt(20_000)
    left = np.mean(np.asarray(tasks.platform)[:, 0] < 0)
    assert abs(left - 0.5) < 5 * 0.5 / math.sqrt(20_000)


@pytest.mark.parametrize(
    "options", [{"height": 65, "width": 32}, {"stride": 0.0}, {"platform": 0.5}, {"turn": 181.0}, {"steps": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        envs.make("watermaze", options)


# --- Pictures ---


def plain_picture(pose, height: int, width: int) -> np.ndarray:
    """One picture by one ray a pixel, in float64: which surface is met first, and what color it has there."""
    x, y, facing = (pose[0] - RADIUS) / RADIUS, (pose[1] - RADIUS) / RADIUS, 2 * math.pi * pose[2] / TURN
    eye, top, image = raycast.EYE / RADIUS, raycast.WALL / RADIUS, raycast.texture().astype(float)
    picture = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            right, up = (2 * column + 1 - width) / width, (height - 1 - 2 * row) / width
            ray = np.array(
                [
                    math.cos(facing) + right * math.sin(facing),
                    math.sin(facing) - right * math.cos(facing),
                    up,
                ]
            )
            ray /= math.hypot(ray[0], ray[1])  # per unit of way over the water
            half = x * ray[0] + y * ray[1]
            wall = -half + math.sqrt(half**2 - (x**2 + y**2 - 1))
            water = -eye / ray[2] if ray[2] < 0 else math.inf
            z = eye + wall * ray[2]
            if water < wall:

                def tile(p):
                    return int((p + 1) / 2 * 32)

                color = image[128 + tile(y + water * ray[1]), tile(x + water * ray[0])]
                color = color * (1 - water * RADIUS / 65536)
            elif z >= top:
                azimuth = math.atan2(ray[1], ray[0]) / (2 * math.pi) % 1
                color = image[min(int(ray[2] * 64), 63), int(azimuth * 1024)]
            else:
                bearing = math.atan2(y + wall * ray[1], x + wall * ray[0]) / (2 * math.pi) % 1
                color = image[64 + int(z / top * 64), int(bearing * 1024)]
                color = color * (1 - wall * RADIUS / 65536)
            picture[row, column] = color
    return picture


def test_pictures_equal_a_plain_ray_tracer():
    """But for pixels on the edge of a texel, where rounding decides."""
    see = jax.jit(Watermaze(height=36, width=48).render)
    shares = []
    for pose in poses(12, seed=5):
        picture, expected = np.asarray(see(pose)).astype(float), plain_picture(pose, 36, 48)
        shares.append(np.mean(np.abs(picture - expected).max(-1) <= 2))
    assert min(shares) > 0.98, shares


LARGE = pytest.param(72, 96, marks=pytest.mark.slow)


@pytest.mark.parametrize(("height", "width"), [LARGE, pytest.param(24, 32, marks=pytest.mark.slow), (7, 9)])
def test_pictures_are_the_same_bits_in_any_batch_and_context(height, width):
    family, stored = Watermaze(height=height, width=width), poses(2520)
    render = family.render
    together = np.asarray(jax.jit(jax.vmap(render))(stored))
    assert together.dtype == np.uint8
    assert len({picture.tobytes() for picture in together}) > 2400, "poses look different"
    by = {
        "batches of 7": jax.jit(lambda x: jax.lax.map(jax.vmap(render), x.reshape(-1, 7, 3))),
        "one by one in a scan": jax.jit(lambda x: jax.lax.scan(lambda _, o: (None, render(o)), None, x)[1]),
        "nested, after other work": jax.jit(lambda x: jax.vmap(jax.vmap(render))((x[::-1] + 0).reshape(63, 40, 3))),
    }
    for how, draw in by.items():
        got = np.asarray(draw(stored)).reshape(together.shape)
        np.testing.assert_array_equal(got[::-1] if "nested" in how else got, together, err_msg=how)
    alone = jax.jit(render)
    for i in range(0, 2520, 20):
        np.testing.assert_array_equal(alone(stored[i].astype(np.uint16)), together[i])
    for i in range(0, 2520, 500):  # each operation by itself: nothing is fused
        np.testing.assert_array_equal(render(jnp.asarray(stored[i])), together[i])


def test_isqrt_and_angles_are_exact():
    edges = np.arange(1, 32768, dtype=np.int32) ** 2
    n = np.concatenate([edges, edges - 1, edges + 1, [0, 2**30]]).astype(np.int32)
    np.testing.assert_array_equal(raycast.isqrt(jnp.asarray(n)), [math.isqrt(k) for k in n.tolist()])
    x, y = np.random.default_rng(0).integers(-RADIUS, RADIUS, (2, 5000)).astype(np.int32)
    error = np.asarray(raycast.angle_of(jnp.asarray(x), jnp.asarray(y))) - np.arctan2(y, x) * TURN / (2 * np.pi)
    assert np.abs((error + TURN / 2) % TURN - TURN / 2).max() < 1


@pytest.mark.parametrize(("height", "width"), [LARGE, (24, 32)])
def test_a_picture_tells_the_pose(height, width):
    """The nearest of 6000 pictures is from a pose nearby."""
    family = Watermaze(height=height, width=width)
    see = jax.jit(jax.vmap(family.render))

    def look(stored):
        return np.asarray(see(stored)).astype(np.float32)[:, ::3, ::3].reshape(len(stored), -1)

    known, asked = poses(6000, seed=1), poses(100, seed=2)
    a, b = look(known), look(asked)
    nearest = known[np.argmin((a**2).sum(1)[None] - 2 * b @ a.T, axis=1)].astype(int)
    place = np.hypot(*(nearest - asked)[:, :2].T) / RADIUS
    heading = np.abs((nearest - asked)[:, 2] + TURN // 2) % TURN - TURN // 2
    assert np.median(place) < 0.15
    assert np.mean(place > 0.5) < 0.02
    assert np.median(np.abs(heading)) < TURN / 40


# --- Contract ---


@pytest.mark.slow
def test_small_variants_keep_the_contract():
    check_env(dataclasses.replace(TINY, heading="fixed", reward="terminate"))
    family = dataclasses.replace(TINY, heading="fixed")
    config = sources.make("actor_critic", {"actors": 2, "unroll": 6, "hidden": [8], "channels": [4, 4]})
    assert len(check_source(config, family)) == 5


def test_sources_that_cannot_use_pixels_say_so():
    for name, words in (("q_learning", "has pixels. Try source=actor_critic"), ("ucb", "episodes of 1 step")):
        with pytest.raises(TypeError, match=words):
            sources.make(name).make(TINY)


def test_the_stored_spec_is_the_pose_and_the_seen_one_the_picture():
    stored, seen = spec_of(TINY), seen_spec_of(TINY)
    assert (stored.shape, stored.observation_dtype, stored.pixels) == ((3,), np.uint16, False)
    assert (seen.shape, seen.observation_dtype, seen.pixels) == ((12, 16, 3), np.uint8, True)
    assert type(seen).from_json(seen.to_json()) == seen
    room = envs.make("dark_room")
    assert seen_spec_of(room) == spec_of(room)


def test_replayed_pictures_are_those_seen_at_collection():
    """A lifetime that renders as it acts, in a vmap of scans, against the windows that replay renders from its
    poses.
    """
    family, lifetimes, steps = Watermaze(height=24, width=32, steps=10), 9, 40
    tasks = family.sample_tasks(jax.random.key(0), lifetimes)
    actions = np.random.default_rng(0).integers(0, 8, (lifetimes, steps)).astype(np.int32)

    def lifetime(key, task, actions):
        def step(carry, x):
            observation, state, outcome = advance(family, x[1], carry[1], x[0], task)
            # What is seen decides nothing here, but it is computed where a source would.
            return (observation, state), (carry[0], family.render(carry[0]), outcome)

        keys = jax.random.split(key, steps + 1)
        return jax.lax.scan(step, family.reset_env(keys[0], task), (actions, keys[1:]))[1]

    played = jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(1), lifetimes), tasks, actions)
    stored, seen, outcome = jax.tree.map(np.asarray, played)
    spec = spec_of(family)
    number = (np.arange(lifetimes)[:, None] * 1000 + np.arange(steps)).astype(np.float32)  # names history and step
    ends = outcome.terminated, outcome.truncated
    transition = Transition(stored.astype(spec.observation_dtype), actions.astype(np.uint8), number, *ends)
    zeros = np.zeros(lifetimes, np.int32)
    histories = Histories(transition, {}, family.task_ids(tasks), zeros, zeros)
    config = replay.Config(segment=7, batch=16, groups=8)
    for mesh in (mesh_of(), mesh_of(8)):
        resident = replay.load(histories, spec, config, mesh)
        assert resident.steps["observation"].dtype == np.uint16
        draw = jax.jit(lambda r, key, m=mesh: replay.sample(r, key, spec, config, m, family.render))
        for i in range(4):
            batch = jax.device_get(draw(resident, jax.random.key(i)))
            before = batch.steps.prev_reward[:, 1:].astype(int)  # numbers of steps 0.. of each window but its first
            np.testing.assert_array_equal(batch.steps.observation[:, 1:], seen[before // 1000, before % 1000 + 1])


def test_a_stored_step_costs_10_bytes():
    experiment = override(load("watermaze", "smoke"), ["env.height=72", "env.width=96"])
    parts = build(experiment)
    manifest = make_manifest(experiment, parts, {})
    per_step = [
        dtype.itemsize * math.prod(shape[1:])
        for shape, dtype in manifest.fields.values()
        if shape[:1] == (manifest.steps,)
    ]
    assert sum(per_step) == 6 + 1 + 1 + 1 + 1
    assert manifest.spec.shape == (3,)


def looking(policy) -> Model:
    """Return a "model" that acts on the picture: `policy(pictures [B, H, W, 3]) -> action [B]`."""

    def decode(params, cache, steps):
        assert steps.observation.dtype == jnp.uint8
        return 1e4 * jax.nn.one_hot(policy(steps.observation), 8), cache

    return Model(unused, unused, lambda batch: jnp.int32(0), decode, unused, 1, None)


def test_the_evaluator_and_an_agent_look_at_pictures():
    """A policy that reads its action off the picture: the evaluator's returns are those of an agent fed pictures."""
    family = Watermaze(height=12, width=16, steps=25, heading="fixed")
    tasks = family.sample_tasks(jax.random.key(0), 24)

    def read(pictures):
        return jnp.where(pictures.astype(jnp.int32).sum((1, 2, 3)) % 3 == 0, 6, 0)

    policy, mesh = from_model(looking(read), "greedy"), mesh_of()
    runner = make_evaluator(policy, family, mesh, 2, 50)
    result = evaluate.evaluate(runner, None, tasks, family.task_ids(tasks), 1, 2, family, mesh, seed=0)
    assert 0 < result.returns.mean() < 1
    agent = Agent(policy, None, seen_spec_of(family))
    agent.reset(batch=24)
    see, keys = jax.jit(jax.vmap(family.render)), jax.random.split(jax.random.key(0), 24)
    step = jax.jit(jax.vmap(functools.partial(advance, family)))
    observation, state = jax.vmap(family.reset_env)(keys, tasks)
    reward, done, rewards = None, None, []
    for _ in range(50):
        action = agent.act(see(observation), reward, done)
        observation, state, outcome = step(keys, state, jnp.asarray(action), tasks)
        reward, done = outcome.reward, outcome.done
        rewards.append(np.asarray(reward))
    np.testing.assert_array_equal(np.stack(rewards, 1).reshape(24, 2, 25).sum(2), result.returns[:, 0])
    with pytest.raises(AdJaxError, match=r"whole observations in 0..255; got float"):
        agent.act(np.full((24, 12, 16, 3), 0.5), reward, done)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Return the smoke scale with the tiniest pictures, all stages."""
    small = ["env.height=12", "env.width=16", "distill.updates=4", "distill.evaluate_every=0", "evaluate.greedy=False"]
    run = Run(override(load("watermaze", "smoke"), small), tmp_path_factory.mktemp("run") / "one")
    run.all()
    return run


@pytest.mark.slow
def test_all_stages_run_on_pictures(run):
    assert {p.name for p in (run.folder / "report").iterdir()} >= {"index.html", "curve.png", "paths.png"}
    observation = store.open_store(run.histories).read().transition.observation
    assert observation.dtype == np.uint16
    assert observation.shape[2:] == (3,)
    agent = Agent.load(run.folder)
    assert agent.spec.pixels
    family = run.components.family
    picture = np.asarray(family.render(family.reset_env(jax.random.key(0), take(run.components.split.train, 0))[0]))
    assert agent.act(picture[None]).shape == (1,)
