"""RA-DT (ml-jku/RA-DT, and the grids of ml-jku/dark_room): a `.npz` file a task, or a folder a task.

A file a task, `[0,0]_[x,y].npz`, holds observations, next_observations, actions, rewards and dones. Its name gives
start and goal as MiniHack's places, (column, row); observations are (row, column), so the goal is turned around, and
compared with the cells in which rewards come. next_observations at an end is what the reset gave. Rewards that are not
0 or 1 had a value estimate added at time limits, and are refused.

A folder a task holds `.npz` files of one episode each (states, actions, rewards and one number `dones`), and
`episode_*.json` beside them. Their numbers are their order in time, unless they were sorted by return.

Actions are up, right, down, left, stay, which are renamed. A pickled buffer (`.pkl`) is refused.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.base import Foreign, Format, Stream, flags, natural, require
from ad_jax.formats.zipped import Zipped
from ad_jax.history.foreign import PICKLED, History, Origin

OURS = np.array([2, 3, 1, 4, 0])  # up, right, down, left, stay, as they are called here
LIMITS = {10: 100, 17: 100, 20: 400}
PLACES = re.compile(r"\[(\d+), ?(\d+)\]")


@dataclasses.dataclass(frozen=True)
class RaDt(Format):
    """Dark Room of RA-DT: a `.npz` file a task, or a folder a task with a file an episode."""

    size: int = 10
    episode_length: int | None = None  # None: 100, and 400 in a grid of 20
    start: Literal["center", "corner", "random"] = "corner"
    reward: Literal["every_step", "once", "terminate"] = "every_step"

    def open(self, paths: Sequence[Path]) -> Foreign:
        streams, files = [], []
        for path in _tasks(paths):
            pieces = sorted(path.glob("*.npz"), key=natural) if path.is_dir() else [path]
            arrays = [Zipped(piece) for piece in pieces]
            names = (
                ("states", "actions", "rewards", "dones")
                if path.is_dir()
                else ("observations", "actions", "rewards", "dones")
            )
            for one in arrays:
                require(f"{path.name}/{one.name}" if path.is_dir() else one.name, one.headers, names)
                one.check()
            steps = sum(one.headers["rewards"][0][0] for one in arrays)
            goal = _goal(path)
            streams.append(Stream(path.name, steps, lambda a=arrays, n=path.name, g=goal: self._history(a, n, g)))
            files += pieces
        family = DarkRoom(self.size, self.episode_length or LIMITS.get(self.size, 100), self.start, self.reward)
        origin = Origin(
            resets="the environment's wrapper, within the step that ends an episode",
            termination="derived: an end that pays" if self.reward == "terminate" else "every end is the time limit",
            memory="none: PPO on the cell",
            notes=("actions are renamed to ad_jax's", "the goal is turned around, from (column, row)"),
        )
        return Foreign(streams, origin, files, family=family)

    def _history(self, arrays: list[Zipped], name: str, goal: np.ndarray | None) -> History:
        in_pieces = "states" in arrays[0].headers
        seen = "states" if in_pieces else "observations"
        held = {field: [one.read(field, None) for one in arrays] for field in (seen, "actions", "rewards")}
        if in_pieces:
            _check_order([float(np.sum(rewards)) for rewards in held["rewards"]], name)
            ends = [np.arange(len(rewards)) == len(rewards) - 1 for rewards in held["rewards"]]
            done = np.concatenate(ends)
        else:
            done = flags(arrays[0].read("dones", None).reshape(-1), f"{name}: dones")
        state = np.concatenate(held[seen]).reshape(len(done), -1)
        action, reward = (np.concatenate(held[field]).reshape(-1) for field in ("actions", "rewards"))
        if state.shape[1] != 2:
            raise ForeignHistoriesError(
                f"{name}: expected observations of 2 numbers, (row, column), received {state.shape[1]}"
            )
        if ((action < 0) | (action >= len(OURS))).any():
            raise ForeignHistoriesError(f"{name}: an action is none of 0 to 4")
        if (odd := ~np.isin(reward, (0, 1))).any():
            raise ForeignHistoriesError(
                f"{name}: reward {reward[odd.argmax()]:g} at step {int(odd.argmax())}. Rewards here are 0 or 1; others "
                "had a value estimate added where a time limit ended the episode, in place, before they were stored. "
                "Collect without TimeLimit.truncated, or round them where nothing else was added"
            )
        after = np.concatenate([state[1:], state[-1:]])
        paid = (reward > 0) & ~done
        paid[-1] = False  # what it led to is not there
        if paid.any():
            reached = np.unique(after[paid], axis=0)
            said = reached[0] if goal is None else goal
            if len(reached) > 1 or (reached[0] != said).any():
                raise ForeignHistoriesError(
                    f"{name}: rewards come in {reached[:3].astype(int).tolist()}, and the name says the goal is "
                    f"{said.astype(int).tolist()} as (row, column). Names hold (column, row), observations the contrary"
                )
            goal = said
        if goal is None:
            raise ForeignHistoriesError(f"{name}: neither the name nor a reward says where the goal is")
        ended = done & (reward > 0) if self.reward == "terminate" else np.zeros_like(done)
        return History(
            state, OURS[action.astype(int)], reward, ended, done & ~ended, task={"goal": np.asarray(goal, np.int32)}
        )


def _tasks(paths: Sequence[Path]) -> list[Path]:
    """Return what is of one task each: `.npz` files, or folders of them with `episode_*.json`."""
    found: list[Path] = []
    for path in paths:
        if path.suffix == ".pkl" or (path.is_dir() and list(path.rglob("*.pkl"))):
            raise ForeignHistoriesError(f"{path}: a pickled buffer: {PICKLED}")
        if not path.exists():
            raise ForeignHistoriesError(f"{path} is not there")
        if not path.is_dir() or list(path.glob("episode_*.json")):
            found.append(path)
        else:
            inside = sorted((p for p in path.iterdir() if p.suffix == ".npz" or p.is_dir()), key=natural)
            found += _tasks(inside)
    return found


def _goal(path: Path) -> np.ndarray | None:
    """Return the goal that a name tells, (row, column); None where it tells none."""
    places = PLACES.findall(path.name)
    return np.array([int(places[-1][1]), int(places[-1][0])]) if len(places) >= 2 else None


def _check_order(returns: list[float], name: str) -> None:
    """Raise ForeignHistoriesError where episodes were sorted by return, so that their order is not that of time."""
    order = np.array(returns)
    if len(order) > 10 and len(np.unique(order)) > 2 and ((np.diff(order) >= 0).all() or (np.diff(order) <= 0).all()):
        raise ForeignHistoriesError(
            f"{name}: the returns of its {len(order)} episodes only go one way: they were sorted (sort_by_return), and "
            "their order in time is lost. Save them again without"
        )
