"""Decision Transformer: what it asks for, in training and in acting, and one checkpoint evaluated at many targets."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE, numbered_histories

from ad_jax import Agent, Run
from ad_jax.checkpoint import checkpoint
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, build, load, override
from ad_jax.methods.decision_transformer import CHANNEL, Asked, DecisionTransformer, returns_to_go
from ad_jax.models.base import Model
from ad_jax.run import directory
from ad_jax.study.keys import trained_by
from ad_jax.types import Steps
from examples import decision_transformer as example

SMOKE = load("dark_room", "smoke")
DT = override(SMOKE, ["method=decision_transformer", "model.memory=episode", *LITTLE])


def bound(e: Experiment) -> DecisionTransformer:
    """Return the method with what its family knows."""
    method = build(e).method
    assert isinstance(method, DecisionTransformer)
    return method


def shows_its_extra() -> Model:
    """Return a model whose cache is the extra input of its last step."""

    def decode(params, cache, steps):
        return jnp.zeros((len(cache), 5)), steps.extra[CHANNEL]

    return Model(lambda key: {}, lambda *_: None, jnp.zeros, decode, lambda done: 0, 1, None)  # pyright: ignore


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (lambda target: DecisionTransformer(acting=Asked(target), return_scale=10.0), returns_to_go),
        (lambda target: example.DecisionTransformer(target=target), example.returns_to_go),
    ],
    ids=["ours", "the example"],
)
def test_online_and_stored_returns_to_go_are_equal_on_stored_episodes(method, told):
    """Asked for what an episode earned, the policy asks at each of its steps for what is left of that."""
    t = numbered_histories(6, 24).transition
    reward, done = t.reward % 7, t.done
    stored = told(reward, done) / np.float32(10)
    for first in range(0, 24, 4):  # episodes of four steps
        here = slice(first, first + 4)
        for row in range(6):
            policy = method(float(reward[row, here].sum())).policy(shows_its_extra())
            carry, online = policy.init(1), []
            for step in range(first, first + 4):
                last = max(step - 1, 0)
                steps = Steps(
                    observation=t.observation[row : row + 1, step],
                    prev_action=np.zeros(1, np.int32),
                    prev_reward=np.array([reward[row, last] * (step > 0)], np.float32),
                    prev_done=np.array([done[row, last] & (step > 0)]),
                )
                _, carry = policy.act({}, carry, steps, jax.random.split(jax.random.key(step), 1))
                online.append(float(carry.inner.cache[0]))
            np.testing.assert_array_equal(np.array(online, np.float32), stored[row, here])


def test_what_is_left_open_follows_from_the_best_policies_of_the_training_tasks():
    parts = build(DT)
    best = np.asarray(parts.family.optimal_return(parts.split.train))
    assert bound(DT).acting == Asked(float(np.mean(best)))
    assert bound(DT).return_scale == best.max()
    asked = bound(override(DT, ["method.acting.target=3", "method.return_scale=2"]))
    assert (asked.acting, asked.return_scale) == (Asked(3.0), 2.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.acting.target=20.5"], r"target=20.5 is above what any policy can earn in DarkRoom: 20 in the best"),
        (["method.acting.target=nan"], r"method.acting.target expects float"),
        (["method.acting.targat=3"], r"Did you mean 'method.acting.target'"),
        (["method.return_scale=0"], r"return_scale must be above 0 and finite; got 0"),
        (["method.acting.target=1e999"], r"acting.target is a return, a finite number; got inf"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(DT, changes))


def test_where_nobody_knows_the_best_return_a_target_is_asked_for():
    e = override(load("gymnax_cartpole", "smoke"), ["method=decision_transformer"])
    with pytest.raises(ConfigError, match=r"does not know what its best policies earn .* Set it"):
        build(e)
    assert bound(override(e, ["method.acting.target=100"])).return_scale == 100


def test_what_is_asked_for_is_no_part_of_training():
    other = override(DT, ["method.acting.target=3"])
    assert directory.digest(other) == directory.digest(DT)
    assert directory.digest(override(DT, ["method.return_scale=3"])) != directory.digest(DT)
    assert trained_by(other) == trained_by(DT)
    assert Experiment.from_json(json.loads(json.dumps(other.to_json()))) == other
    back = override(other, ["method=distillation"])
    assert DecisionTransformer(**vars(back.method)) == override(back, ["method=decision_transformer"]).method


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run at smoke size, with the target left open."""
    made = Run(DT, tmp_path_factory.mktemp("dt") / "run")
    made.all()
    return made


def sampled(folder) -> dict:
    data = json.loads((folder / "evaluation" / "held_out-sampled.json").read_text())
    return data["key"]


def test_one_checkpoint_is_evaluated_at_many_targets(run):
    _, before, _ = checkpoint.load(run.folder)
    assert sampled(run.folder)["acting"]["target"] == pytest.approx(bound(DT).acting.target)
    Run(override(DT, ["method.acting.target=3"]), run.folder).evaluate()
    assert sampled(run.folder)["acting"] == {"target": 3}
    _, after, _ = checkpoint.load(run.folder)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_an_agent_asks_for_what_was_left_open(run):
    agent = Agent.load(run.folder)
    agent.act([[4, 4]])
    assert agent._carry.left == pytest.approx(bound(DT).acting.target)
