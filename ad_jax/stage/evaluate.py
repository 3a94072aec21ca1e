"""Stage 3: a frozen policy learns held-out tasks in its context, and every episode's return and length is kept.

Input: params and tasks. Output: return and length of every in-context episode, per task and seed. Rollouts
(`rollout.py`) are batched over tasks x seeds and split over the mesh's batch axes. Knows neither sources nor histories:
which tasks were trained on comes from the checkpoint.

Source: Laskin et al. 2022, section 4 (sampled actions); greedy actions are reported beside them, as papers differ.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily, num_tasks, spec_of, take
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.keys import task_keys
from ad_jax.sharding import batch_devices, on_batch, put, to_host
from ad_jax.stage.episodes import Curve
from ad_jax.stage.rollout import Evaluator, Rollouts
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """How a trained model is evaluated."""

    episodes: int = 100  # in-context episodes of each rollout
    seeds: int = 8  # rollouts per task
    greedy: bool = True  # also where no action is drawn: the likeliest, or of a Box what the head says
    episodes_per_dispatch: int = 10
    checkpoint: Literal["last", "best"] = "last"
    source_seeds: int = 8  # learners per held-out task for the source's reference curve; 0 for none
    prompt: float | None = None  # fill the context with a demonstrator this share of the way from random to optimal
    prompt_episodes: int = 4  # of the demonstrator, before the first in-context episode
    temperature: float | None = None  # of sampled actions: below 1 the likelier ones gain; None is 1
    trained: int | None = None  # also on the first so many training tasks: what is known, beside what is learned

    def validate(self) -> None:
        """Raise ConfigError where a number cannot be meant."""
        for name in ("episodes", "seeds", "episodes_per_dispatch", "prompt_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluate.{name} must be at least 1; got {getattr(self, name)}")
        if self.prompt is not None and not 0 <= self.prompt <= 1:
            raise ConfigError(
                f"evaluate.prompt is a share of the way from a random to the optimal return, 0 to 1; got {self.prompt}"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(
                f"evaluate.temperature must be above 0; got {self.temperature}. Where no action is drawn, see "
                "evaluate.greedy"
            )
        if self.trained is not None and self.trained < 1:
            raise ConfigError(f"evaluate.trained must be at least 1, or None for no such set; got {self.trained}")


def check_unseen(task_ids: Sequence[str], trained_ids: Sequence[str]) -> None:
    """Raise AdJaxError if any task was trained on, or if there are no tasks."""
    seen = sorted(set(task_ids) & set(trained_ids))
    if not task_ids:
        raise AdJaxError("the held-out set is empty: there is nothing to evaluate; set tasks.held_out to at least 1")
    if seen:
        raise AdJaxError(
            f"{len(seen)} of {len(task_ids)} held-out tasks were trained on ({', '.join(seen[:3])}, ...): the "
            "result would not be in-context learning of new tasks. Use the split the checkpoint was "
            "trained with (tasks.split_seed, tasks.train)"
        )


def evaluate(
    evaluator: Evaluator,
    params: PyTree,
    tasks: PyTree,
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
        evaluator: compiled rollouts of the policy on `family`.
        params: of the frozen policy.
        tasks: batched, `[N]`.
        task_ids: ids of the tasks, N of them.
        seeds: rollouts of each task.
        episodes: of each rollout.
        family: whose tasks these are.
        mesh: whose batch axes split the rollouts.
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
    rollouts, traces, finished = evaluator.start(keys, tasks), [], 0
    total = episodes * family.episode_length
    for done in range(evaluator.steps_per_run, total + evaluator.steps_per_run, evaluator.steps_per_run):
        rollouts, trace = evaluator.run(params, rollouts, keys, tasks)
        if bool(rollouts.impossible.any()):
            raise impossible(evaluator, params, rollouts, keys, tasks, task_ids, seeds, family)
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

    def of_tasks(x):
        return to_host(x)[:batch, :episodes].reshape(count, seeds, episodes)

    done = min(int(rollouts.time), total)
    return Curve(of_tasks(rollouts.returns), of_tasks(rollouts.lengths), np.concatenate(traces)[:done], batch * done)


KEPT = "Nothing of this evaluation is kept."


def impossible(
    evaluator: Evaluator,
    params: PyTree,
    rollouts: Rollouts,
    keys: jax.Array,
    tasks: PyTree,
    task_ids: Sequence[str],
    seeds: int,
    family: TaskFamily,
) -> AdJaxError:
    """Roll out again from the start, and put into words the earliest value of `rollouts` that cannot be."""

    def who(row: int) -> str:
        number = min(row, len(task_ids) * seeds - 1)  # rows after it are padding, and repeat it
        return f"task {task_ids[number // seeds]}, seed {number % seeds}, of {family.name}"

    again, first = evaluator.start(keys, tasks), values.nothing(rollouts.impossible.shape)
    for _ in range(0, int(rollouts.time), evaluator.steps_per_run):
        again, first = evaluator.explain(params, again, first, keys, tasks)
    first = jax.tree.map(to_host, first)
    if not (rows := np.flatnonzero(first.place != values.NOTHING)).size:  # another program rounds otherwise
        row, last = int(np.flatnonzero(to_host(rollouts.impossible))[0]), int(rollouts.time) - 1
        return AdJaxError(
            f"an observation, an action, a reward or a logit of {who(row)} is not finite or not as the family states "
            f"it, up to step {last}; rolled out again, with other rounding, there was none. {KEPT}"
        )
    row = min(rows, key=lambda row: int(first.step[row]))
    first = jax.tree.map(lambda x: x[row], first)
    what, field = values.told(spec_of(family), family.reward_dtype, first)
    where = f"at step {first.step} (episode {first.episode + 1}) of {who(int(row))}"
    return AdJaxError(f"{what}, {where}. {KEPT} {values.REMEDY[field]}")
