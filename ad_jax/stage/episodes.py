"""What an evaluation found: the episodes of every rollout, and the plain data that results are made of."""

import dataclasses

import numpy as np

from ad_jax.envs import leaves
from ad_jax.envs.base import TaskFamily, take
from ad_jax.files import JsonObject
from ad_jax.policies.base import Mode
from ad_jax.policies.demonstrator import Prompt
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Curve:
    """In-context episodes."""

    returns: np.ndarray  # [N, S, E] float32
    steps: np.ndarray  # [N, S, E] int32, environment steps of each
    trace: np.ndarray  # [T, N, k] int32: each task's first rollout, before each action, to the end of E or later
    env_steps: int  # of all rollouts


def after_prompt(curve: Curve, prompt: Prompt) -> tuple[Curve, JsonObject]:
    """Return the curve of the episodes in which the model acts, and what it was shown before, as plain data."""
    shown, returns = np.split(curve.returns, [prompt.episodes], axis=-1)
    before, steps = np.split(curve.steps, [prompt.episodes], axis=-1)
    data = {"noise": prompt.noise, "episodes": prompt.episodes, "return": float(shown.mean())}
    began, longest = before[:, 0].sum(-1), int(steps[:, 0].sum(-1).max())  # of each task's first rollout
    rows = np.minimum(began + np.arange(longest)[:, None], len(curve.trace) - 1)  # [T, N]
    trace = curve.trace[rows, np.arange(len(began))]
    return dataclasses.replace(curve, returns=returns, steps=steps, trace=trace), data


def tasks_as_data(family: TaskFamily, tasks: PyTree) -> list[JsonObject]:
    """Each task as plain data for `results.json`: id, parameters, description, optimal and random return, picture."""
    optimal, random, ids = family.optimal_return(tasks), family.random_return(tasks), family.task_ids(tasks)

    def at(values, i):
        return None if values is None else float(values[i])

    one, params = lambda i: take(tasks, i), leaves.as_data(tasks)
    return [
        {
            "id": name,
            "params": params[i],
            "description": family.describe(one(i)),
            "optimal": at(optimal, i),
            "random": at(random, i),
            "picture": family.picture(one(i)),
        }
        for i, name in enumerate(ids)
    ]


def paths_as_data(curve: Curve, tasks: list[JsonObject], mode: Mode) -> JsonObject:
    """Return the first rollout on the hardest task (lowest optimal return), in early and late episodes, to draw."""
    hardest = min(range(len(tasks)), key=lambda i: tasks[i]["optimal"] if tasks[i]["optimal"] is not None else i)
    returns, steps = curve.returns[hardest, 0], curve.steps[hardest, 0]
    episodes, ends = len(returns), np.cumsum(steps)
    every = int(curve.steps.max()) == 1
    chosen = range(episodes) if every else sorted({e for e in (0, 1, 2, 4, 9, 19, 49, episodes - 1) if e < episodes})

    def points(e):
        return curve.trace[ends[e] - steps[e] : ends[e], hardest].tolist()

    drawn = [{"episode": e + 1, "return": float(returns[e]), "points": points(e)} for e in chosen]
    return {"task": hardest, "seed": 0, "mode": mode, "episodes": drawn}
