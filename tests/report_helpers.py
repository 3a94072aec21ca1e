"""Made-up results that the tests of the report draw from."""

import copy
import json
from pathlib import Path

import numpy as np

from ad_jax.report.results import SCHEMA
from ad_jax.report.seal import FIELD, seal

HOSTILE = "$x_{$ ☃\ud800</title><script>alert(1)</script><img src=x onerror='a'>\""  # bad mathtext, no glyph, no UTF-8


def curve(tasks=4, rollouts=2, episodes=20, low=0.0, high=8.0, at=5, noise=0.0, seed=0):
    """Return `[tasks][rollouts][episodes]`: `low` before episode `at` (from 0), `high` from it on, plus noise."""
    values = np.where(np.arange(episodes) < at, low, high) + np.zeros((tasks, rollouts, episodes))
    return (values + noise * np.random.default_rng(seed).normal(size=values.shape)).tolist()


def grid_set(name="held_out", tasks=4, **source):
    cells = [[1, 2 + i] for i in range(tasks)]
    path = [[4, 4], [3, 4], [3, 3], [3, 3]]
    return {
        "name": name,
        "kind": "by row",
        "tasks": [
            {
                "id": f"goal-{r}-{c}",
                "description": f"goal at row {r}, column {c}",
                "optimal": 10.0,
                "random": 0.2,
                "picture": {"kind": "grid", "size": 9, "goal": [r, c]},
            }
            for r, c in cells
        ],
        "returns": {"sampled": curve(tasks), "greedy": curve(tasks, 1, high=7.0)},
        "steps": {"sampled": 20, "greedy": 20},
        "source": {"name": "q_learning", "returns": curve(tasks, 3, 50, high=9.0, at=39), "steps": 20}
        | {"actors": 5, "life": 1000}
        | source,
        "paths": {
            "task": 1,
            "seed": 0,
            "mode": "sampled",
            "episodes": [{"episode": e, "return": 1.0, "points": path} for e in (1, 2, 20)],
        },
    }


def pool_set(tasks=3):
    """Places in a pool of diameter 201."""
    one = grid_set(tasks=tasks)
    for i, task in enumerate(one["tasks"]):
        task |= {"id": f"platform-{i}", "picture": {"kind": "pool", "size": 201, "goal": [60, 90 + i], "radius": 15}}
    path = [[100, 100], [90, 103], [80, 99], [70, 91]]
    one["paths"]["episodes"] = [{"episode": e, "return": 1.0, "points": path} for e in (1, 2, 20)]
    return one


def arms_set(means=(0.1, 0.9, 0.5), tasks=3):
    picture = {"kind": "arms", "means": None if means is None else list(means)}
    pulls = [{"episode": e, "return": 1.0, "points": [[e % 3]]} for e in range(1, 21)]
    return {
        "name": "uniform",
        "kind": "by seed",
        "tasks": [
            {"id": f"b{i}", "description": "3 arms", "optimal": 0.9, "random": 0.5, "picture": picture}
            for i in range(tasks)
        ],
        "returns": {"sampled": curve(tasks, low=0.5, high=0.9)},
        "steps": {"sampled": 1},
        "source": None,
        "paths": {"task": 0, "seed": 0, "mode": "sampled", "episodes": pulls},
    }


def results(*sets, seeds=(0,), experiment="dark_room", episode_length=20):
    run = {
        "config": {"source": {"name": "q_learning", "rate": 0.1}, "batch": 64},
        "provenance": {"ad_jax": "0.1.0", "commit": None},
        "stages": {"collect": {"seconds": 10.0, "env_steps": 4_160_000}, "distill": {"seconds": 200.0, "updates": 9}},
        "episode_length": episode_length,
        "checkpoint": {"step": 1000, "which": "last"},
        "sets": list(sets) or [grid_set()],
    }
    return {"schema": 2, "experiment": experiment, "runs": [{"seed": s, **copy.deepcopy(run)} for s in seeds]}


def save(path: Path, data) -> Path:
    """Write text, or data, which is sealed where a file of its schema must be and it has no seal yet."""
    if isinstance(data, dict) and data.get("schema") == SCHEMA and FIELD not in data:
        data = seal(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path
