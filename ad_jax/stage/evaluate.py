"""Stage 3: a frozen model learns held-out tasks in its context. Environment, policy and cache run inside one scan.

Input: params and tasks. Output: return and length of every in-context episode, per task and seed. Rollouts are batched
over tasks x seeds and split over the mesh's batch axes; the only thing that grows is the cache. Knows neither sources
nor histories: which tasks were trained on comes from the checkpoint.

Source: Laskin et al. 2022, section 4 (sampled actions); greedy actions are reported beside them, as papers differ.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily, advance, num_tasks, reset, spec_of, take
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.keys import task_keys
from ad_jax.models.base import Model, first_steps
from ad_jax.policies.demonstrator import Prompt, demonstrate
from ad_jax.sharding import batch_devices, on_batch, put, replicated, to_host
from ad_jax.types import Steps

Mode = Literal["sampled", "greedy"]


@dataclasses.dataclass(frozen=True)
class Config:
    """How a trained model is evaluated."""

    episodes: int = 100  # in-context episodes of each rollout
    seeds: int = 8  # rollouts per task
    greedy: bool = True  # also with the most likely action instead of a sampled one
    episodes_per_dispatch: int = 10
    checkpoint: Literal["last", "best"] = "last"
    source_seeds: int = 8  # learners per held-out task for the source's reference curve; 0 for none
    prompt: float | None = None  # fill the context with a demonstrator this share of the way from random to optimal
    prompt_episodes: int = 4  # of the demonstrator, before the first in-context episode
    temperature: float | None = None  # of sampled actions: below 1 the likelier ones gain; None is 1

    def validate(self) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("episodes", "seeds", "episodes_per_dispatch", "prompt_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.{name} must be at least 1; got {getattr(self, name)}")
        if self.prompt is not None and not 0 <= self.prompt <= 1:
            raise ConfigError(
                f"evaluate.prompt is a share of the way from a random to the optimal return, 0 to 1; got {self.prompt}"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(
                f"evaluate.temperature must be above 0; got {self.temperature}. For the likeliest action, see "
                "evaluate.greedy"
            )


@struct.dataclass
class Rollouts:
    """B rollouts under way. Every array leaf is `[B, ...]` or a scalar."""

    cache: Any
    steps: Steps  # [B], what the model sees next, its observation as yet unrendered
    env_state: Any
    episode: jax.Array  # [B] int32, episodes finished
    returns: jax.Array  # [B, E + 1] float32; the last column takes what comes after episode E
    lengths: jax.Array  # [B, E + 1] int32, environment steps of each episode so far; the last column likewise
    time: jax.Array  # [] int32, environment steps done
    first: values.First  # [B], of what was seen, done and earned, what cannot be


class Evaluator(NamedTuple):
    """Compiled rollouts of one model on one family.

    Attributes:
        start: `(keys [B], tasks [B]) -> Rollouts`.
        run: `(params, rollouts, keys [B], tasks [B]) -> (rollouts, trace [steps, B, k])`: `steps_per_run` more
            environment steps of each rollout. The rollouts are donated; the keys are not consumed: step t of a rollout
            uses `fold_in(key, t)`, so results do not depend on the batch or on where a run was cut.
        steps_per_run: environment steps of each rollout in one `run`.
    """

    start: Callable[..., Rollouts]
    run: Callable[..., tuple[Rollouts, jax.Array]]
    steps_per_run: int


def make_evaluator(
    model: Model,
    family: TaskFamily,
    mesh: Mesh,
    mode: Mode,
    episodes: int,
    steps_per_run: int,
    prompt: Prompt | None = None,
    temperature: float = 1.0,
) -> Evaluator:
    """An `Evaluator` that counts the first `episodes` episodes; in a prompt's the model only looks."""
    act = functools.partial(choose, mode=mode, temperature=temperature)
    spec = spec_of(family)
    rows, one = on_batch(mesh), replicated(mesh)
    place = lambda tree: jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows if x.ndim else one), tree)

    def start(keys, tasks):
        batch = len(keys)
        begin = lambda key, task: reset(family, jax.random.fold_in(key, 2**31), task)
        observation, env_state = jax.vmap(begin)(keys, tasks)
        steps = first_steps(observation, spec.num_actions)
        returns, lengths = (jnp.zeros((batch, episodes + 1), dtype) for dtype in (jnp.float32, jnp.int32))
        counters = jnp.zeros((batch,), jnp.int32), returns, lengths, jnp.int32(0), values.nothing((batch,))
        return place(Rollouts(model.init_cache(batch), steps, env_state, *counters))

    def step(params, keys, tasks, rollouts, _):
        seen = rollouts.steps.replace(observation=jax.vmap(family.render)(rollouts.steps.observation))
        logits, cache = model.decode(params, rollouts.cache, seen)
        key = jax.vmap(jax.random.fold_in, (0, None))(keys, rollouts.time)
        key_action, key_env = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        if prompt is None:
            action = act(logits, key_action)
        else:
            key_action, key_prompt = jnp.moveaxis(jax.vmap(jax.random.split)(key_action), 1, 0)
            shown = jax.vmap(functools.partial(demonstrate, family, prompt.noise))(
                key_prompt, rollouts.env_state, tasks
            )
            action = jnp.where(rollouts.episode < prompt.episodes, shown, act(logits, key_action))
        trace = jax.vmap(family.trace)(rollouts.env_state, action)
        observation, env_state, outcome = jax.vmap(functools.partial(advance, family))(
            key_env, rollouts.env_state, action, tasks
        )
        at = jnp.arange(len(keys), dtype=jnp.int32), jnp.minimum(rollouts.episode, episodes)
        returns, lengths = rollouts.returns.at[at].add(outcome.reward), rollouts.lengths.at[at].add(1)
        first = values.look(
            spec,
            family.reward_dtype,
            rollouts.first,
            rollouts.time,
            rollouts.episode,
            rollouts.steps.observation,
            action,
            outcome.reward,
            logits,
        )
        steps = Steps(observation, action, outcome.reward, outcome.done)
        episode = rollouts.episode + outcome.done.astype(jnp.int32)
        return Rollouts(cache, steps, env_state, episode, returns, lengths, rollouts.time + 1, first), trace

    def run(params, rollouts, keys, tasks):
        rollouts, trace = jax.lax.scan(functools.partial(step, params, keys, tasks), rollouts, None, steps_per_run)
        return place(rollouts), trace

    return Evaluator(jax.jit(start), jax.jit(run, donate_argnums=1), steps_per_run)


def choose(logits: jax.Array, keys: jax.Array, mode: Mode, temperature: float = 1.0) -> jax.Array:
    """Actions `[B]` int32 for logits `[B, A]`; one key a row, so that a row does not depend on its neighbours."""
    if mode == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits / temperature).astype(jnp.int32)


def check_unseen(task_ids: Sequence[str], trained_ids: Sequence[str]) -> None:
    """Raises AdJaxError if any task was trained on, or if there are no tasks."""
    seen = sorted(set(task_ids) & set(trained_ids))
    if not task_ids:
        raise AdJaxError("the held-out set is empty: there is nothing to evaluate; set tasks.held_out to at least 1")
    if seen:
        raise AdJaxError(
            f"{len(seen)} of {len(task_ids)} held-out tasks were trained on ({', '.join(seen[:3])}, ...): the "
            "result would not be in-context learning of new tasks. Use the split the checkpoint was "
            "trained with (tasks.split_seed, tasks.train)"
        )


@dataclasses.dataclass(frozen=True)
class Curve:
    """In-context episodes."""

    returns: np.ndarray  # [N, S, E] float32
    steps: np.ndarray  # [N, S, E] int32, environment steps of each
    trace: np.ndarray  # [T, N, k] int32: each task's first rollout, before each action, to the end of E or later
    env_steps: int  # of all rollouts


def evaluate(
    evaluator: Evaluator,
    params: Any,
    tasks: Any,
    task_ids: Sequence[str],
    seeds: int,
    episodes: int,
    family: TaskFamily,
    mesh: Mesh,
    seed: int,
    progress: Callable[[int, int, float], None] = lambda done, total, value: None,
) -> Curve:
    """Roll every task out `seeds` times, until every rollout has had `episodes` episodes.

    Args:
        tasks, task_ids: batched tasks `[N]` and their ids.
        seed: with task id and rollout index, determines every random number.
        progress: called with the steps done per rollout, how many it will be at most (fewer where episodes end early,
            which is known at the end), and the mean return of the newest finished episode.

    Raises:
        AdJaxError: naming task, rollout, episode and step of the first observation, action, reward or logit that is not
            finite or not what the family states.
    """
    count, batch = num_tasks(tasks), num_tasks(tasks) * seeds
    padded = -(-batch // batch_devices(mesh)) * batch_devices(mesh)
    row = np.minimum(np.arange(padded), batch - 1)  # padding repeats the last rollout
    keys = task_keys(seed, "evaluate", task_ids, row, seeds)
    keys, tasks = put((keys, take(tasks, row // seeds)), on_batch(mesh))
    rollouts, traces = evaluator.start(keys, tasks), []
    total = episodes * family.episode_length
    for done in range(evaluator.steps_per_run, total + evaluator.steps_per_run, evaluator.steps_per_run):
        rollouts, trace = evaluator.run(params, rollouts, keys, tasks)
        check_values(rollouts.first, family, task_ids, seeds)
        traces.append(to_host(trace[:, :batch:seeds]).astype(np.int32))
        finished = int(rollouts.episode.min())  # by every rollout; where episodes end early, sooner than in `total`
        newest = min(max(finished, 1), episodes) - 1
        taken = min(done, total)
        progress(taken, taken if finished >= episodes else total, float(rollouts.returns[:batch, newest].mean()))
        if finished >= episodes:
            break
    else:
        raise AdJaxError(
            f"after {total} steps a rollout has finished {finished} of {episodes} episodes: {family.name} has episodes "
            f"of more than episode_length = {family.episode_length} steps. `ad-jax check` says which part is wrong"
        )
    of_tasks = lambda x: to_host(x)[:batch, :episodes].reshape(count, seeds, episodes)
    done = min(int(rollouts.time), total)
    return Curve(of_tasks(rollouts.returns), of_tasks(rollouts.lengths), np.concatenate(traces)[:done], batch * done)


def check_values(first: values.First, family: TaskFamily, task_ids: Sequence[str], seeds: int) -> None:
    """Raises AdJaxError, in words, for the earliest of what rollouts `[tasks x seeds, padded]` show that cannot be."""
    if int(first.place.max()) == values.NOTHING:
        return
    first = jax.tree.map(to_host, first)
    row = min(np.flatnonzero(first.place != values.NOTHING), key=lambda row: int(first.step[row]))
    first, row = jax.tree.map(lambda x: x[row], first), min(int(row), len(task_ids) * seeds - 1)
    what, field = values.told(spec_of(family), family.reward_dtype, first)
    raise AdJaxError(
        f"{what}, at step {first.step} (episode {first.episode + 1}) of task {task_ids[row // seeds]}, seed "
        f"{row % seeds}, of {family.name}. Nothing of this evaluation is kept. {values.REMEDY[field]}"
    )


def after_prompt(curve: Curve, prompt: Prompt) -> tuple[Curve, dict[str, Any]]:
    """The curve of the episodes in which the model acts, and what it was shown before, as plain data."""
    shown, returns = np.split(curve.returns, [prompt.episodes], axis=-1)
    before, steps = np.split(curve.steps, [prompt.episodes], axis=-1)
    data = {"noise": prompt.noise, "episodes": prompt.episodes, "return": float(shown.mean())}
    began, longest = before[:, 0].sum(-1), int(steps[:, 0].sum(-1).max())  # of each task's first rollout
    rows = np.minimum(began + np.arange(longest)[:, None], len(curve.trace) - 1)  # [T, N]
    trace = curve.trace[rows, np.arange(len(began))]
    return dataclasses.replace(curve, returns=returns, steps=steps, trace=trace), data


def tasks_as_data(family: TaskFamily, tasks: Any) -> list[dict[str, Any]]:
    """Each task as plain data for `results.json`: id, description, optimal and random return, picture."""
    optimal, random, ids = family.optimal_return(tasks), family.random_return(tasks), family.task_ids(tasks)
    at = lambda values, i: None if values is None else float(values[i])
    one = lambda i: take(tasks, i)
    return [
        {
            "id": name,
            "description": family.describe(one(i)),
            "optimal": at(optimal, i),
            "random": at(random, i),
            "picture": family.picture(one(i)),
        }
        for i, name in enumerate(ids)
    ]


def paths_as_data(curve: Curve, tasks: list[dict[str, Any]], mode: Mode) -> dict[str, Any]:
    """The first rollout on the hardest task (lowest optimal return), in early and late episodes, to draw."""
    hardest = min(range(len(tasks)), key=lambda i: tasks[i]["optimal"] if tasks[i]["optimal"] is not None else i)
    returns, steps = curve.returns[hardest, 0], curve.steps[hardest, 0]
    episodes, ends = len(returns), np.cumsum(steps)
    every = int(curve.steps.max()) == 1
    chosen = range(episodes) if every else sorted({e for e in (0, 1, 2, 4, 9, 19, 49, episodes - 1) if e < episodes})
    points = lambda e: curve.trace[ends[e] - steps[e] : ends[e], hardest].tolist()
    drawn = [{"episode": e + 1, "return": float(returns[e]), "points": points(e)} for e in chosen]
    return {"task": hardest, "seed": 0, "mode": mode, "episodes": drawn}
