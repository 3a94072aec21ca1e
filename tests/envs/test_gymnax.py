"""The gymnax adapter: equal to gymnax's own loop, time limits apart from terminations, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.classic_control.cartpole import CartPole

from ad_jax import envs
from ad_jax.envs.base import advance, spec_of, take
from ad_jax.envs.gymnax_adapter import Gymnax
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env
from ad_jax.types import Box

STEPS = 60  # of each compared lifetime; the time limit is 25, so each has both kinds of ends where the environment has
FAMILIES = {  # what each is here for
    "two parameters, one of them log-uniform": Gymnax(
        vary={"length": (0.25, 1.0), "force_mag": (5, 15, "log")}, steps=25
    ),
    "a parameter of both signs": Gymnax(vary={"force_mag": (5, 15, "signed")}, steps=25),
    "a whole-number parameter, weak types in its state": Gymnax("UmbrellaChain-bsuite", {"chain_length": (2, 9)}, 25),
    "integers in a real space, noise": Gymnax("FourRooms-misc", {"fail_prob": (0.0, 0.5)}, 25),
    "a clock in floats, integer rewards": Gymnax("BernoulliBandit-misc", {"reward_prob": (0.1, 0.9)}, 25),
    "its limit in its observations": Gymnax("DiscountingChain-bsuite", {"optimal_return": (1.0, 2.0)}, 25),
    "torques, in a box": Gymnax("Pendulum-v1", {"m": (0.5, 2.0), "l": (0.5, 1.5)}, 25),
    "a box, and a goal that ends": Gymnax("MountainCarContinuous-v0", {"power": (0.01, 0.02)}, 25),
    "images, a step of its own": Gymnax("DeepSea-bsuite", {"unscaled_move_cost": (0.01, 0.5)}, 25),
}


def lifetimes(step, reset, family, tasks):
    """Lifetimes of random actions `[N, STEPS, ...]`; both loops split keys in the same way."""
    actions = family.action_spec.sample(np.random.default_rng(0), (STEPS,))

    def live(key, task):
        key_reset, key_steps = jax.random.split(key)

        def one(carry, x):
            state, record = step(*carry, *x, task)
            return state, record

        return jax.lax.scan(one, reset(key_reset, task), (jax.random.split(key_steps, STEPS), actions))[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(live))(jax.random.split(jax.random.key(1), 6), tasks))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_lifetimes_equal_those_of_gymnaxs_own_loop(family):
    """Same keys, same parameters: `advance` on the adapter is `Environment.step` on the environment."""
    tasks = family.sample_tasks(jax.random.key(0), 6)

    def theirs(observation, state, key, action, task):
        params = family.inner_params(task, family.episode_length)
        after, state, reward, terminated, truncated, info = family.inner.step(key, state, action, params)
        truncated = truncated & ~terminated  # one reason for an end
        return (after, state), (observation, reward, terminated, truncated, info["final_observation"])

    def ours(observation, state, key, action, task):
        after, state, outcome = advance(family, key, state, action, task)
        ends = (outcome.terminated, outcome.truncated)
        return (after, state), (observation, outcome.reward, *ends, outcome.next_observation)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):

        def reset(key, task):
            return family.inner.reset(key, family.inner_params(task, family.episode_length))

        # Their states change type on the way; a loop needs one.
        def strong(tree):
            return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)

        expected = lifetimes(lambda *args: strong(theirs(*args)), lambda *args: strong(reset(*args)), family, tasks)
    got = lifetimes(ours, family.reset_env, family, tasks)
    for name, a, b in zip(("observation", "reward", "terminated", "truncated", "next observation"), got, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.all((got[2] | got[3]).any(axis=1))


COUNTED = Gymnax("MemoryChain-bsuite", {"memory_length": (2, 20)}, 25)


@pytest.mark.parametrize("family", [FAMILIES["its limit in its observations"], COUNTED], ids=repr)
def test_families_keep_the_contract(family):
    assert len(check_env(family)) == 22


def test_tasks_of_whole_numbers_are_counted():
    assert np.asarray(COUNTED.all_tasks().values["memory_length"]).tolist() == list(range(2, 21))
    two = Gymnax("SpaceInvaders-MinAtar", {"shot_cool_down": (1, 3), "enemy_shot_interval": (5, 6)}).all_tasks()
    rows = np.stack([two.values["enemy_shot_interval"], two.values["shot_cool_down"]], axis=1)
    assert rows.tolist() == [[5, 1], [5, 2], [5, 3], [6, 1], [6, 2], [6, 3]]
    assert Gymnax().all_tasks() is None


class EndsAtItsLimit(CartPole):
    """Calls its time limit a termination, as gymnax did before 1.0."""

    def is_terminated(self, state, params):
        return super().is_terminated(state, params) | (state.time >= params.max_steps_in_episode)


def test_a_limit_folded_into_termination_is_taken_out_again():
    vary = {"length": (0.25, 1.0)}
    folded, plain = Gymnax(f"{__name__}:EndsAtItsLimit", vary, 15), Gymnax(vary=vary, steps=15)
    tasks = plain.sample_tasks(jax.random.key(0), 6)

    def step(family):
        def one(observation, state, key, action, task):
            after, state, outcome = advance(family, key, state, action, task)
            return (after, state), outcome

        return one

    got, expected = (lifetimes(step(f), f.reset_env, f, tasks) for f in (folded, plain))
    chex.assert_trees_all_equal(got, expected)
    assert got.terminated.any()
    assert got.truncated.any()


def test_parameters_that_follow_from_others_do():
    family = Gymnax(vary={"length": (0.25, 1.0), "masspole": (0.05, 0.2)})
    tasks = family.sample_tasks(jax.random.key(0), 100)
    params = jax.vmap(lambda task: family.inner_params(task, 500))(tasks)
    np.testing.assert_allclose(params.polemass_length, params.masspole * params.length, rtol=1e-6)
    np.testing.assert_allclose(params.total_mass, 1 + params.masspole, rtol=1e-6)
    assert set(tasks.values) == {"length", "masspole"}
    with pytest.raises(ConfigError, match=r"cannot vary: .* follows from other parameters"):
        Gymnax(vary={"polemass_length": (0.02, 0.1)})


def test_parameters_are_drawn_from_the_stated_distributions():
    family = Gymnax(vary={"length": (0.25, 1.0), "force_mag": (1.0, 100.0, "log")})
    values = family.sample_tasks(jax.random.key(0), 4000).values
    for x, low, high in ((values["length"], 0.25, 1.0), (np.log10(values["force_mag"]), 0.0, 2.0)):
        counts = np.histogram(x, bins=10, range=(low, high))[0]
        assert counts.sum() == 4000
        assert ((counts - 400) ** 2).sum() / 400 < 34  # chi-square, 9 degrees: p < 1e-4
    assert abs(np.corrcoef(values["length"], values["force_mag"])[0, 1]) < 0.1
    whole = Gymnax("MemoryChain-bsuite", {"memory_length": (2, 4)}).sample_tasks(jax.random.key(0), 3000)
    counts = np.bincount(whole.values["memory_length"])
    assert counts.tolist()[:2] == [0, 0]
    assert np.all(np.abs(counts[2:] - 1000) < 150)
    assert len(counts) == 5
    signed = Gymnax(vary={"force_mag": (5.0, 15.0, "signed")}).sample_tasks(jax.random.key(0), 4000).values["force_mag"]
    for side in (signed[signed > 0], -signed[signed < 0]):  # each side half of the draws, and uniform
        counts = np.histogram(side, bins=10, range=(5.0, 15.0))[0]
        assert counts.sum() == len(side)
        assert ((counts - 200) ** 2).sum() / 200 < 36  # chi-square, 10 degrees: p < 1e-4
    assert (signed > 0).sum() + (signed < 0).sum() == 4000
    alone = Gymnax(vary={"length": (0.25, 1.0)}).sample_tasks(jax.random.key(0), 4000).values
    np.testing.assert_array_equal(alone["length"], values["length"])


def test_scale_divides_observations_and_nothing_else():
    plain, scaled = Gymnax(steps=25), Gymnax(steps=25, scale=(2.0, 4.0, 0.5, 1.0))

    def step(family):
        return lambda o, s, k, a, t: (lambda r: ((r[0], r[1]), (o, r[2])))(advance(family, k, s, a, t))

    tasks = plain.sample_tasks(jax.random.key(0), 6)
    (raw, before), (divided, after) = (lifetimes(step(f), f.reset_env, f, tasks) for f in (plain, scaled))
    np.testing.assert_allclose(divided * np.array([2, 4, 0.5, 1], np.float32), raw, rtol=1e-6)
    np.testing.assert_array_equal(after.reward, before.reward)
    np.testing.assert_array_equal(after.terminated, before.terminated)

    def start(family):
        return family.reset_env(jax.random.key(0), take(tasks, 0))[0]

    np.testing.assert_allclose(2 * start(Gymnax(scale=(2.0,))), start(plain), rtol=1e-6)


def test_specs_are_read_from_the_space():
    spec = spec_of(Gymnax())
    assert (spec.num_actions, spec.shape, spec.values) == (2, (4,), None)
    assert spec_of(FAMILIES["torques, in a box"]).action == Box((1,), -2.0, 2.0)


def test_a_family_says_its_tasks_and_equals_its_like():
    family = Gymnax(vary={"length": [0.25, 1], "force_mag": (5.0, 15.0)})
    same = envs.make("gymnax", {"vary": {"force_mag": [5, 15], "length": (0.25, 1.0)}})
    assert family == same
    assert hash(family) == hash(same)
    assert family != Gymnax()
    assert family.episode_length == 500
    assert family.describe(family.default_params) == "force_mag 10, length 0.5"
    signed = envs.make("gymnax", {"vary": {"length": [0.25, 1], "force_mag": [5, 15, "signed"]}})
    assert signed != family
    assert signed.options["vary"]["force_mag"] == (5.0, 15.0, "signed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_id": "CartPole-v0"}, r"unknown gymnax environment 'CartPole-v0'. Did you mean 'CartPole-v1'"),
        ({"env_id": "nowhere:Env"}, r"cannot load gymnax environment 'nowhere:Env'"),
        ({"vary": {"lenght": (0, 1)}}, r"unknown parameter of CartPole-v1 'lenght'. Did you mean 'length'"),
        ({"vary": {}}, r"env.vary is empty.*Known for CartPole-v1: force_mag, gravity, length"),
        ({"vary": {"max_steps_in_episode": (5, 9)}}, r"cannot vary: .* \(one for all tasks, env.steps\)"),
        ({"vary": {"length": (1.0, 1.0)}}, r"expects numbers \[low, high\].*got \(1.0, 1.0\)"),
        (
            {"vary": {"length": (0.5, 1.0, "lg")}},
            r"or \[low, high, \"log\"\] or \[low, high, \"signed\"\].*got \(0.5, 1.0, 'lg'\)",
        ),
        ({"vary": {"length": (0.0, 1.0, "log")}}, r"\"log\" needs a low bound above 0"),
        ({"vary": {"force_mag": (-5.0, 5.0, "signed")}}, r"\"signed\" needs a low bound above 0"),
        ({"vary": {"length": (0.5, float("inf"))}}, r"expects numbers .*got \(0.5, inf\)"),
        ({"vary": {"length": 1.0}}, r"low < high; got 1.0"),
        (
            {"env_id": "MemoryChain-bsuite", "vary": {"memory_length": (2.0, 4.0)}},
            r"expects whole numbers \[low, high\],",
        ),
        ({"env_id": "FourRooms-misc", "vary": {"resample_goal_pos": (0, 1)}}, r"cannot vary: it is no single number"),
        (
            {"env_id": "Acrobot-v1", "vary": {"available_torque": (0, 1)}},
            r"cannot vary.*Known for Acrobot-v1: dt, link_com_pos_1",
        ),
        ({"steps": 0}, r"env.steps must be at least 1; got 0"),
        ({"scale": (1.0, 2.0)}, r"env.scale expects 1 or 4 positive numbers; got \(1.0, 2.0\)"),
        ({"scale": (0.0,)}, r"env.scale expects 1 or 4 positive numbers"),
        ({"env_id": "Catch-bsuite", "vary": {"x": (0, 1)}}, r"unknown parameter of Catch-bsuite 'x'. Known: none"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        envs.make("gymnax", options)
