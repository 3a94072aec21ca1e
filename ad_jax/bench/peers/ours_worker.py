"""Our side of every line, with the installed package."""

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax import envs, sources
from ad_jax.bench import diffusing, distilling, evaluating, searching
from ad_jax.bench.peers.programs.serving import serve
from ad_jax.bench.sizes import QUICK, Case
from ad_jax.files import JsonObject
from ad_jax.keys import a_key
from ad_jax.policies.base import from_model
from ad_jax.sources.base import SourceConfig
from ad_jax.stage.rollout import make_evaluator


def source_of(work: JsonObject) -> SourceConfig:
    """Return the source with the sizes of `work`: networks as large, and as many of them, as rejax has."""
    common = {
        "actors": work["envs"],
        "hidden": tuple(work["hidden"]),
        "learning_rate": work["learning_rate"],
        "max_grad_norm": work["max_grad_norm"],
    }
    if work["kind"] == "ppo":
        sizes = {name: work[name] for name in ("unroll", "epochs", "minibatches", "entropy_cost")}
        return sources.make("ppo", {**common, **sizes, "value_layers": "own"})
    each = {name: work[name] // work["envs"] for name in ("capacity", "warmup")}
    copies = {"target_updates": work["target_steps"] // work["envs"]}
    steps = {"unroll": 1, "gradient_steps": work["gradient_steps"], "batch": work["batch"], "sequence": 1}
    return sources.make("dqn", {**common, **each, **copies, **steps})


def learning(work: JsonObject):
    """Return what lets all learners live once; as in rejax, no step of theirs is kept."""
    family = envs.make("gymnax", {"env_id": "CartPole-v1"})
    source = source_of(work).make(family)
    updates = work["env_steps"] // (source.steps_per_update * source.actors)
    tasks = family.sample_tasks(a_key(0), work["learners"])
    program, calls = [], [0]

    def lifetime(key, task):
        def update(state, index):
            return source.update(jax.random.fold_in(key, index), state, task)[0], None

        return jax.lax.scan(update, source.init(key, task), jnp.arange(updates, dtype=jnp.int32))[0]

    def call():
        keys = jax.random.split(a_key(calls[0]), work["learners"])
        calls[0] += 1
        first = not program
        if first:
            program.append(jax.jit(jax.vmap(lifetime)).lower(keys, tasks).compile())
        jax.block_until_ready(program[0](keys, tasks))
        steps = updates * source.steps_per_update * source.actors * work["learners"]
        return {"flops": program[0].cost_analysis()["flops"], "env_steps": steps} if first else None

    return call


def training(work: JsonObject):
    """Return what makes some updates of the model."""
    case = Case("peers", "transformer", work["model"], work["batch"], work["segment"], work["updates"])
    s = distilling.setting(case)
    made: list[distilling.Training] = []

    def call():
        if not made:
            made.append(distilling.Training(s, distilling.compiled(s)))
        made[0](work["updates"])

    return call


def acting(work: JsonObject):
    """Return what starts rollouts and makes some steps of each, with an empty context at first."""
    case = Case("peers", "transformer", work["model"], 1, 1, 1)
    s = evaluating.setting(QUICK.__class__(**{**vars(QUICK), "acting": case}))
    evaluator = make_evaluator(from_model(s.model), s.family, s.mesh, evaluating.EPISODES, work["steps"])
    tasks = s.family.all_tasks()
    assert len(jax.tree.leaves(tasks)[0]) == work["rollouts"]

    def call():
        keys = jax.random.split(a_key(0), work["rollouts"])
        _, trace = evaluator.run(s.params, evaluator.start(keys, tasks), keys, tasks)
        np.asarray(jax.tree.leaves(trace)[0])

    return call


def searching_for_plans(work: JsonObject):
    """Return what decides by Trajectory Transformer's search, in one lifetime, one decision after another."""
    case = Case("peers", "transformer", work["model"], 1, 1, 1)
    search = work["beam"], work["horizon"]
    s, method, rolling = searching.planner("trajectory_transformer", case, search, 1, work["decisions"])
    assert method.acting.expand == work["expand"]
    flops: JsonObject | None = {"flop_per_decision": searching.decision_flops(method, s.model, s.config, s.params)}

    def call():
        jax.block_until_ready(rolling())
        return flops

    return call


def denoising(work: JsonObject):
    """Return what plans by diffusion, from noise at every step of an episode, in all lifetimes at once."""
    family = diffusing.room()
    assert work["plans"] == family.steps and work["passes"] == diffusing.STEPS
    made, flops = diffusing.planner(Case("peers", "transformer", work["model"], 1, 1, 1), family)
    asked, _ = diffusing.WAYS["from nothing at every step"]
    episode = diffusing.episode(*made, asked, work["lifetimes"])

    def call():
        jax.block_until_ready(episode())
        return {"flop_per_pass": flops}

    return call


def make(work: JsonObject):
    """Return the call of a line, and the versions it runs with."""
    kinds = {"ppo": learning, "dqn": learning, "training": training, "acting": acting}
    kinds |= {"searching": searching_for_plans, "denoising": denoising}
    return kinds[work["kind"]](work), {"jax": jax.__version__}


if __name__ == "__main__":
    serve(make)
