"""Which gymnax environments and parameters make tasks, what their observations are, and what is refused at once."""

import importlib.util
import pathlib
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import advance, spec_of
from ad_jax.envs.gymnax_adapter import Gymnax
from ad_jax.envs.spaces import ROWS, spec_from
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

DOCS = pathlib.Path(__file__).parents[2] / "docs"
Box: Any = spaces.Box  # its annotations know no dtypes of NumPy


@struct.dataclass
class Params(environment.EnvParams):
    """What the environments of this file know."""

    high: float = 1.0  # reward of the right place
    start: int = 0  # copied into the state
    unread: float = 0.0
    max_steps_in_episode: int = 6


@struct.dataclass
class State(environment.EnvState):
    """A place on a line of four."""

    place: jax.Array
    start: jax.Array
    regret: jax.Array


class Line(environment.Environment):
    """Go up and down a line; `see` and `space` are what differs."""

    space = spaces.Box(-np.inf, np.inf, (), jnp.float32)

    @property
    def default_params(self):
        return Params()

    def see(self, place) -> Any:
        return jnp.asarray(place, jnp.float32)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return self.space

    def reset_env(self, key, params):
        start = jnp.asarray(params.start, jnp.int32)
        state = State(time=jnp.int32(0), place=start, start=start, regret=jnp.float32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        place = jnp.clip(state.place + 2 * action - 1, 0, 3)
        reward = jnp.where(place == 3, params.high, 0.0)
        state = State(state.time + 1, place, state.start, state.regret + params.unread)
        return self.observe(key, state, action, params), state, reward, jnp.array(False), {}

    def observe(self, key, state, action, params):
        return self.see(state.place)


class Pictures(Line):
    """uint8 in 0..255, in a space that is stated so."""

    space = spaces.Box(0, 255, (8, 8, 3), jnp.uint8)

    def see(self, place):
        return jnp.full((8, 8, 3), 60 * place, jnp.uint8)


class PicturesStatedAsFloats(Pictures):
    """The dtype comes from the observation."""

    space = spaces.Box(0, 255, (8, 8, 3), jnp.float32)


class Maps(Pictures):
    """uint8, and no picture: few values."""

    space = spaces.Box(0, 9, (2, 2, 1), jnp.uint8)

    def see(self, place):
        return jnp.full((2, 2, 1), place, jnp.uint8)


class Gray(Pictures):
    """No channels."""

    space = spaces.Box(0, 255, (64, 64), jnp.uint8)

    def see(self, place):
        return jnp.full((64, 64), place, jnp.uint8)


class Unbounded(Line):
    """Any whole number."""

    space = spaces.Box(0, 2**31 - 1, (2,), jnp.int32)

    def see(self, place):
        return jnp.full((2,), place, jnp.int32)


class Negative(Unbounded):
    """Below 0, too."""

    space = spaces.Box(-2, 3, (2,), jnp.int32)


class Halves(Line):
    """float16."""

    space = spaces.Box(0, 4, (), jnp.float16)

    def see(self, place):
        return jnp.asarray(place, jnp.float16) / 2


class FloatsInWholes(Halves):
    """The space says whole numbers, and they are none."""

    space = spaces.Box(0, 4, (), jnp.int32)


class OtherShape(Unbounded):
    """The bounds are of another shape."""

    space = spaces.Box(jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.int32), (3,), jnp.int32)


class Pairs(Line):
    """Two arrays."""

    def see(self, place):
        return {"x": jnp.float32(place), "y": jnp.float32(0)}


class Blind(Line):
    """Has no observe of its own."""

    observe = environment.Environment.observe

    def reset_env(self, key, params):
        zero = jnp.int32(0)
        return jnp.float32(0), State(time=zero, place=zero, start=zero, regret=jnp.float32(0))


class StopsAtThree(Line):
    """Ends an episode early, and calls it a truncation."""

    def is_truncated(self, state, params):
        return super().is_truncated(state, params) | (state.place == 3)


def of(kind: type, **options: Any) -> Gymnax:
    return Gymnax(f"{__name__}:{kind.__name__}", **{"vary": {"high": (1.0, 2.0)}, **options})


@pytest.mark.parametrize("kind", [Pictures, PicturesStatedAsFloats])
def test_pictures_are_pixels(kind):
    family = of(kind)
    spec = spec_of(family)
    assert (spec.pixels, spec.shape, spec.values) == (True, (8, 8, 3), None)
    observation, state = family.reset_env(jax.random.key(0), family.default_params)
    after = advance(family, jax.random.key(1), state, jnp.int32(1), family.default_params)[0]
    assert observation.dtype == after.dtype == jnp.uint8
    assert (int(observation.max()), int(after.min())) == (0, 60)


def test_a_family_of_pictures_keeps_the_contract():
    assert len(check_env(of(Pictures))) == 22


@pytest.mark.parametrize(
    ("kind", "values", "dtype"), [(Maps, (10,) * 4, jnp.int32), (Halves, None, jnp.float32), (Line, None, jnp.float32)]
)
def test_numbers_keep_their_values(kind, values, dtype):
    family = of(kind)
    assert spec_of(family).values == values
    state = family.reset_env(jax.random.key(0), family.default_params)[1]
    after = advance(family, jax.random.key(1), state, jnp.int32(1), family.default_params)[0]
    assert after.dtype == dtype
    assert float(after.reshape(-1)[0]) == (0.5 if kind is Halves else 1)


def test_no_fraction_is_lost_where_the_space_says_whole_numbers():
    family = of(FloatsInWholes)
    state = family.reset_env(jax.random.key(0), family.default_params)[1]
    after = advance(family, jax.random.key(1), state, jnp.int32(1), family.default_params)[0]
    assert (spec_of(family).values, float(after)) == (None, 0.5)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Gray, r"4096 component\(s\) with up to 256 values need 1.04858e\+06 rows, at most 65,536 are allowed. Make"),
        (Unbounded, r"with up to 2.14748e\+09 values need .* rows, .* uint8 \[height, width, channels\]"),
        (Negative, r"an integer Box must start at 0; got low = .*Subtract it, or use float32"),
        (OtherShape, r"observations have shape \(2,\), the bounds of their space \(3,\)"),
        (Pairs, r"observations must be one array in a Discrete or Box; got .*'x': 'float32\[\]'"),
        (Blind, r"its observe fails .*give it observe\(key, state, action, params\)"),
    ],
)
def test_spaces_that_cannot_be_meant_are_refused_when_the_family_is_made(kind, words):
    with pytest.raises(ConfigError, match=words):
        of(kind)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(0, 255, (84, 84), np.uint8), "need 1.80634e"),
        (Box(0, np.iinfo(np.int32).max, (), np.int32), "need 2.14748e"),
        (Box(0, np.inf, (2,), np.int32), "need inf rows"),
        (spaces.Discrete(ROWS + 1), "need 65537 rows"),
        (Box(-1, 1, (2,), np.int8), "must start at 0"),
        (Box(0, 1, (2,), np.float16), "got float16. Cast"),
        (Box(0, 1, (2, 0), np.float32), "no components"),
        (spaces.Dict({}), "observations must be Discrete or Box; got Dict"),
    ],
)
def test_no_family_has_a_space_that_no_table_holds(space, words):
    with pytest.raises(ConfigError, match=rf"mine: .*{words}"):
        spec_from("mine", spaces.Discrete(2), space)


def test_the_largest_table_is_allowed():
    assert spec_from("mine", spaces.Discrete(2), spaces.Discrete(ROWS)).values == (ROWS,)
    assert spec_from("mine", spaces.Discrete(2), Box(0, 255, (84, 84, 1), np.uint8)).pixels
    poses = Box(0, 40_000, (2,), np.int32)
    assert spec_from("mine", spaces.Discrete(2), poses, embedded=False).values == (40_001,) * 2
    assert not spec_from("mine", spaces.Discrete(2), Box(0, 12, (7, 7, 2), np.uint8)).pixels


def test_parameters_that_make_no_tasks_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"copies it into the state \(state.place\), and steps read that copy.*high"):
        of(Line, vary={"start": (0, 2)})
    with pytest.raises(ConfigError, match=r"nothing that an agent sees or earns depends on it. Known for .*: high"):
        of(Line, vary={"unread": (0.0, 1.0)})


def test_an_end_of_the_environments_own_is_not_lost():
    family = of(StopsAtThree)
    state = family.reset_env(jax.random.key(0), family.default_params)[1]
    ends = []
    for i in range(3):
        _, state, outcome = advance(family, jax.random.key(i), state, jnp.int32(1), family.default_params)
        ends.append(bool(outcome.truncated))
    assert ends == [False, False, True]


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("MetaMaze-misc", "goal is drawn anew in each episode.*use dark_room"),
        ("SimpleBandit-bsuite", "draws all arms anew.*use the family bandit"),
        ("MNISTBandit-bsuite", "it downloads its pictures"),
        ("Breakout-MinAtar", "has no parameter that is a number"),
    ],
)
def test_environments_of_which_nothing_can_be_made_say_why(env_id, words):
    with pytest.raises(ConfigError, match=rf"{env_id}.*{words}"):
        Gymnax(env_id)


@pytest.mark.parametrize(
    ("env_id", "parameter", "words"),
    [
        ("Asterix-MinAtar", "init_spawn_speed", r"\(state.spawn_speed\).*Known for Asterix-MinAtar: ramp_interval."),
        ("SpaceInvaders-MinAtar", "enemy_move_interval", r"\(state.enemy_move_interval\).*Known for .*shot_cool_down"),
        ("Seaquest-MinAtar", "enemy_move_interval", "nothing that an agent sees or earns depends on it"),
    ],
)
def test_parameters_of_gymnaxs_own_that_make_no_tasks_are_refused(env_id, parameter, words):
    with pytest.raises(ConfigError, match=words):
        Gymnax(env_id, {parameter: (2, 8)})


def test_what_is_refused_in_gymnax_is_so():
    """MetaMaze: of those who reach the goal, 1 in 65 ends there. SimpleBandit: other arms at every pull."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        maze, params = gymnax.make("MetaMaze-misc")

        def reach(key):
            key_reset, key_step = jax.random.split(key)
            state = maze.reset_env(key_reset, params)[1]
            before = state.goal - maze.directions
            action = jnp.argmax(maze.env_map[before[:, 0], before[:, 1]])
            return maze.step_env(key_step, state.replace(pos=before[action]), action, params)[2:4]

        reward, ended = jax.jit(jax.vmap(reach))(jax.random.split(jax.random.key(0), 4000))
        assert np.all(reward == 10)
        assert 0.005 < np.mean(ended) < 0.03
        bandit, params = gymnax.make("SimpleBandit-bsuite")
        state, best = bandit.reset(jax.random.key(0), params)[1], set()
        for i in range(6):
            state = bandit.step(jax.random.key(i), state, 0, params)[1]
            best.add(int(state.rewards.argmax()))
        assert len(best) > 2


def test_an_observation_is_that_of_the_state_that_was_reached():
    """MemoryChain: the context is seen once, at the start, and the time that is left after each step."""
    family = Gymnax("MemoryChain-bsuite", {"memory_length": (2, 9)}, 25)
    observation, state = family.reset_env(jax.random.key(0), family.default_params)
    seen = [np.asarray(observation)]
    for i in range(4):
        observation, state, _ = advance(family, jax.random.key(i), state, jnp.int32(0), family.default_params)
        seen.append(np.asarray(observation))
    np.testing.assert_allclose([x[0] for x in seen], 1 - np.arange(5) / 5, atol=1e-6)
    assert [abs(float(x[2])) for x in seen] == [1, 0, 0, 0, 0]


def test_every_environment_of_gymnax_stands_in_the_page():
    path = DOCS / "gymnax_table.py"
    spec = importlib.util.spec_from_file_location("gymnax_table", path)
    assert spec is not None and spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    page = (DOCS / "envs" / "gymnax.md").read_text()
    assert table.written(page) == page, "python docs/gymnax_table.py --write"
    assert len(table.rows()) == 26


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "vary", "steps"),
    [
        ("CartPole-v1", {"gravity": (5.0, 20.0)}, 25),
        ("Acrobot-v1", {"link_mass_1": (0.5, 2.0)}, 25),
        ("MountainCar-v0", {"force": (0.0005, 0.002)}, 25),
        ("Asterix-MinAtar", {"ramp_interval": (2, 6)}, 60),
        ("Freeway-MinAtar", {"player_speed": (1, 4)}, 25),
        ("Seaquest-MinAtar", {"max_oxygen": (20, 40)}, 25),
        ("SpaceInvaders-MinAtar", {"enemy_shot_interval": (2, 8)}, 25),
        ("DeepSea-bsuite", {"unscaled_move_cost": (0.01, 0.5)}, 8),
        ("MemoryChain-bsuite", {"memory_length": (2, 9)}, 25),
        ("UmbrellaChain-bsuite", {"chain_length": (2, 9)}, 25),
        ("DiscountingChain-bsuite", {"optimal_return": (1.0, 2.0)}, 25),
        ("FourRooms-misc", {"fail_prob": (0.0, 0.5)}, 25),
        ("BernoulliBandit-misc", {"reward_prob": (0.1, 0.9)}, 25),
        ("GaussianBandit-misc", {"sigma_l": (0.1, 0.9)}, 25),
        ("Pong-misc", {"paddle_y_speed": (1, 3)}, 25),
    ],
)
def test_every_environment_that_is_accepted_keeps_the_contract(env_id, vary, steps):
    assert len(check_env(Gymnax(env_id, vary, steps))) == 22
