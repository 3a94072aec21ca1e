"""Small files in the layouts that others publish learning histories in, as their own code writes them.

Worlds are played here by NumPy, in the numbering of those who publish: nothing of ad_jax is asked.
"""

import itertools
import json
import pathlib
from typing import Any

import numpy as np

from ad_jax.formats.base import library

AD_EPS = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])  # stay, up, right, down, left
DICP = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)])  # down, up, right, left, stay
RA_DT = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)])  # up, right, down, left, stay


def room(goal, moves, episodes, size=9, steps=20, start=None, seed=0, greedy=0.0) -> dict[str, np.ndarray]:
    """Dark Room, `[episodes, steps]`: observation (row, column), action, reward, done. `greedy` grows to that share."""
    rng, goal = np.random.default_rng(seed), np.asarray(goal)
    start = np.array([size // 2] * 2) if start is None else np.asarray(start)
    held: dict[str, Any] = {name: [] for name in ("observation", "action", "reward", "next")}
    for episode in range(episodes):
        at = start
        for _ in range(steps):
            reached = [np.abs(np.clip(at + move, 0, size - 1) - goal).sum() for move in moves]
            wise = rng.random() < greedy * episode / episodes
            action = int(np.argmin(reached)) if wise else int(rng.integers(5))
            after = np.clip(at + moves[action], 0, size - 1)
            for name, x in zip(held, (at, action, float((after == goal).all()), after)):
                held[name].append(x)
            at = after
    found = {name: np.array(x).reshape(episodes, steps, *np.shape(x[0])) for name, x in held.items()}
    done = np.zeros((episodes, steps), bool)
    done[:, -1] = True
    return found | {"done": done}


def key_to_door(key, door, moves, episodes, size=9, steps=40, seed=0, keep_on=False) -> dict[str, np.ndarray]:
    """Dark Key-to-Door, flat `[T]`: observation, action, reward. Starts are random. The door ends, unless `keep_on`."""
    rng, key, door = np.random.default_rng(seed), np.asarray(key), np.asarray(door)
    held: dict[str, Any] = {"observation": [], "action": [], "reward": []}
    for _ in range(episodes):
        at, has_key, opened = rng.integers(0, size, 2), False, False
        for _ in range(steps):
            target = door if has_key else key
            reached = [np.abs(np.clip(at + move, 0, size - 1) - target).sum() for move in moves]
            action = int(np.argmin(reached)) if rng.random() < 0.7 else int(rng.integers(5))
            after = np.clip(at + moves[action], 0, size - 1)
            takes, opens = (after == key).all() and not has_key, (after == door).all() and has_key and not opened
            for name, x in zip(held, (at, action, float(takes or opens))):
                held[name].append(x)
            at, has_key, opened = after, has_key or takes, opened or opens
            if opens and not keep_on:
                break
    return {name: np.array(x) for name, x in held.items()}


def ad_eps(folder: pathlib.Path, goals, episodes=3, greedy=0.0, **changes) -> pathlib.Path:
    """`generate_trajectories.py`: one metadata file of all goals, a file each."""
    folder.mkdir(parents=True)
    names = []
    for i, goal in enumerate(goals):
        x = room(goal, AD_EPS, episodes, seed=i, greedy=greedy)
        names.append(f"trajectories_{i:03x}.npz")
        save_ad_eps(
            folder / names[-1], x, eps=np.linspace(1, 0, x["reward"].size).reshape(x["reward"].shape), **changes
        )
    metadata(folder, names, [list(goal) for goal in goals])
    return folder


def save_ad_eps(path: pathlib.Path, x: dict[str, np.ndarray], flat=False, **changes) -> None:
    """`dump_trajectories`; `flat` as `q_learning.py` writes it, `[n, 1]`."""
    observation = x["observation"]
    held = {
        "states": (observation[..., 0] * 9 + observation[..., 1]).astype(float),
        "actions": x["action"],
        "rewards": x["reward"].astype(float),
        "dones": np.int32(x["done"]) if "done" in x else None,
    }
    held = {name: y for name, y in (held | changes).items() if y is not None}
    np.savez(path, **{name: y.reshape(-1, 1) if flat else y for name, y in held.items()})


def metadata(folder: pathlib.Path, names: list[str], goal: Any) -> None:
    said = {"algorithm": "opt-eps", "label": "label", "ordered_trajectories": names, "goal": goal}
    (folder / "metadata.metadata").write_text(json.dumps(said))


def xland(path: pathlib.Path, groups=2, rows=4, steps=60, benchmark="medium-1m", order=None, seed=0, **changes):
    """XLand-100B: a group a learner. `order` renames the groups."""
    h5py = library("h5py")
    rng, held = np.random.default_rng(seed), []
    with h5py.File(path, "w") as file:
        for g in range(groups):
            group = file.create_group(str(order[g] if order else g))
            done = (np.arange(1, steps + 1) % 10 == 0) & np.ones((rows, 1), bool)
            arrays = {
                "states": rng.integers(0, 156, (rows, steps, 5, 5)).astype(np.uint8),
                "actions": rng.integers(0, 6, (rows, steps)).astype(np.uint8),
                "rewards": (done * (rng.random((rows, steps)) < 0.5) * 0.75).astype(np.float16),
                "dones": done,
                "expert_actions": rng.integers(0, 6, (rows, steps)).astype(np.uint8),
            } | changes
            for name, x in arrays.items():
                group.create_dataset(name, data=x, compression="gzip", compression_opts=6)
            group.attrs["env-id"], group.attrs["benchmark-id"] = "XLand-MiniGrid-R1-9x9", benchmark
            group.attrs["ruleset-id"] = 1000 + g
            held.append(arrays)
    return held


def dicp(path: pathlib.Path, tasks=(3, 40), learners=3, episodes=4, moves=DICP, transposed=False, permuted=False):
    """DICP's Dark Room: a group a task by its number, time first. `permuted`: by that of what actions do."""
    h5py = library("h5py")
    with h5py.File(path, "w") as file:
        for task in tasks:
            world: dict[str, Any] = {"goal": divmod(task, 9), "moves": moves}
            if permuted:
                order = list(list(itertools.permutations(range(5)))[task])
                world = {"goal": (8, 8), "moves": moves[order], "steps": 50, "start": (0, 0), "greedy": 1.0}
            lived = [room(episodes=episodes, seed=10 * task + i, **world) for i in range(learners)]
            flat = {n: np.stack([x[n].reshape(-1, *x[n].shape[2:]) for x in lived], axis=1) for n in lived[0]}
            if transposed:
                flat = {name: x.swapaxes(0, 1) for name, x in flat.items()}
            group = file.create_group(str(task))
            names = {"states": "observation", "actions": "action", "rewards": "reward", "dones": "done"}
            for theirs, ours in names.items():
                x = flat[ours]
                group[theirs] = x if theirs == "dones" else x.astype(np.int32)
            after = np.where(flat["done"][..., None], 0 if permuted else 4, flat["next"])  # what the reset gave
            group["next_states"] = after.astype(np.int32)
            group["optimal_actions"] = np.zeros(flat["done"].shape[::-1], np.int32)


def ra_dt(folder: pathlib.Path, goals=((2, 7), (5, 1)), episodes=3, **changes) -> pathlib.Path:
    """RA-DT's layout (a): `[0,0]_[x,y].npz`; goals are (row, column)."""
    folder.mkdir(parents=True)
    for i, goal in enumerate(goals):
        x = room(goal, RA_DT, episodes, size=10, steps=100, start=(0, 0), seed=i, greedy=2.0)
        flat = {name: y.reshape(-1, *y.shape[2:]) for name, y in x.items()}
        after = np.where(flat["done"][:, None], 0, flat["next"])  # what the reset gave
        held = {
            "observations": flat["observation"].astype(np.float32),
            "next_observations": after.astype(np.float32),
            "actions": flat["action"][:, None],
            "rewards": flat["reward"].astype(np.float32),
            "dones": flat["done"],
        } | changes
        np.savez(folder / f"[0,0]_[{goal[1]},{goal[0]}].npz", **held)
    return folder


def ra_dt_episodes(folder: pathlib.Path, goal=(2, 7), episodes=12, by_return=False) -> pathlib.Path:
    """RA-DT's layout (b): a folder a task, a file an episode."""
    place = folder / f"[0,0]_[{goal[1]},{goal[0]}]"
    place.mkdir(parents=True)
    x = room(goal, RA_DT, episodes, size=10, steps=100, start=(0, 0), greedy=1.0)
    order = np.argsort(x["reward"].sum(1), kind="stable") if by_return else np.arange(episodes)
    for number, e in enumerate(order):
        np.savez(
            place / f"{number}.npz",
            states=x["observation"][e].astype(np.float32),
            actions=x["action"][e],
            rewards=x["reward"][e],
            dones=np.array(1),
        )
    (place / "episode_returns.json").write_text("{}")
    return place


def vintix(folder: pathlib.Path, steps=30, pieces=(20, 5, 5), seed=0, episode=6, labels=False) -> pathlib.Path:
    """Vintix: a folder a task, `.h5` files of one trajectory in groups "first-last", `last` inclusive."""
    h5py = library("h5py")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    held = {
        "proprio_observation": rng.normal(size=(steps, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "reward": rng.normal(size=steps).astype(np.float32),
        "step_num": (np.arange(steps) % episode).astype(np.int32),
    } | ({"demonstrator_actions": np.zeros((steps, 2), np.float32)} if labels else {})
    with h5py.File(folder / "trajectory_0.h5", "w") as file:
        first = 0
        for size in pieces:
            group = file.create_group(f"{first}-{first + size - 1}")
            for name, x in held.items():
                group[name] = x[first : first + size]
            first += size
    (folder / f"{folder.name}.json").write_text("{}")
    return folder


def icrl4aht(path: pathlib.Path, streams=2, steps=24, seed=0, version=1) -> list[dict[str, np.ndarray]]:
    h5py = library("h5py")
    rng, held = np.random.default_rng(seed), []
    with h5py.File(path, "w") as file:
        file.attrs["schema_version"], file.attrs["format"], file.attrs["num_histories"] = version, "icrl", streams
        for i in range(streams):
            group = file.create_group(str(i))
            arrays = {
                "obs": rng.normal(size=(steps, 4)).astype(np.float32),
                "actions": rng.integers(0, 6, steps).astype(np.int32),
                "rewards": rng.normal(size=steps).astype(np.float32),
                "dones": np.arange(1, steps + 1) % 8 == 0,
                "expert_actions": np.zeros(steps, np.int32),
            }
            for name, x in arrays.items():
                group[name] = x
            group.attrs["task_id"], group.attrs["env_idx"] = f"kitchen-{i}", i
            held.append(arrays)
    return held


def watermaze(path: pathlib.Path, goals=((320.5, -100.0), (-7.0, 401.25)), lengths=(4, 6, 3), **changes):
    """AD-epsilon's Watermaze: a group a history. Episodes have 6 steps at most; shorter ones end with a reward."""
    h5py = library("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, held = np.random.default_rng(0), []
    with h5py.File(path, "w", track_order=True) as file:
        for number, goal in enumerate(goals):
            group, steps = file.create_group(str(number)), sum(lengths)
            reward = np.zeros(steps)
            reward[np.cumsum(lengths)[np.array(lengths) < 6] - 1] = 1.0
            arrays = {
                "obs": rng.integers(0, 256, (steps, 3, 4, 5)).astype(np.uint8),
                "action": rng.integers(0, 8, steps),
                "reward": reward,
            } | changes
            for name, x in arrays.items():
                group.create_dataset(name, data=x, compression="gzip")
            group.attrs["goal"] = goal
            held.append(arrays)
    return held


def omnirl(folder: pathlib.Path, episodes=(4, 3), actions=5, seed=0) -> pathlib.Path:
    """OmniRL: one row more at each episode's end, with action `actions` and reward 0."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for steps in episodes:
        rows += [(rng.integers(0, 16), rng.integers(0, actions), rng.normal()) for _ in range(steps)]
        rows.append((rng.integers(0, 16), actions, 0.0))
    observation, action, reward = map(np.array, zip(*rows))
    arrays = {
        "observations": observation.astype(np.uint32),
        "prompts": np.zeros(len(rows), np.uint32),
        "tags": np.zeros(len(rows), np.uint32),
        "actions_behavior": action.astype(np.uint32),
        "actions_label": action.astype(np.uint32),
        "rewards": reward.astype(np.float32),
    }
    for name, x in arrays.items():
        np.save(folder / f"{name}.npy", x)
    return folder
