"""RA-DT (ml-jku/RA-DT, and the grids of ml-jku/dark_room): a `.npz` or `.npy` file a task, or a folder a task.

A file a task, `[0,0]_[x,y].npz`, holds observations, next_observations, actions, rewards and dones; so do the records
of an `.npy`. Its name gives start and goal as MiniHack's places, (column, row); observations are (row, column), so the
goal is turned around, and compared with the cells in which rewards come. next_observations at an end is what the reset
gave. Rewards that are not 0 or 1 had a value estimate added at time limits, and are refused.

A folder a task holds `.npz` files of one episode each (states, actions, rewards and one number `dones`), and
`episode_*.json` beside them. `episode_trjids.json` says their order in time. Without it their numbers do, and those
whose returns rise often and never fall are refused: they were sorted by return (sort_by_return, lowest first).

Actions are up, right, down, left, stay, which are renamed. What is pickled, `.pkl` or a dict in an `.npy`, is refused.
The grid of 40 x 20 is not square, as every grid here is: its tasks are ids, and no step of them is checked.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ForeignHistoriesError
from ad_jax.files import read_json
from ad_jax.formats.base import Foreign, Format, Stream, flags, natural, require
from ad_jax.formats.zipped import Records, Zipped
from ad_jax.history.foreign import PICKLED, History, Origin
from ad_jax.types import Discrete, Spec

OURS = np.array([2, 3, 1, 4, 0])  # up, right, down, left, stay, as they are called here
LIMITS = {(10, 10): 100, (17, 17): 100, (20, 20): 400, (20, 40): 800}  # steps, by rows and columns
READ = (".npz", ".npy")
NOT_READ = (".hdf5", ".h5", ".pkl", ".gz")  # what an episode is stored in there, too
ORDER = "episode_trjids.json"
RISES = 20  # of returns that never fall: so many are no learner's, whose returns fluctuate
PLACES = re.compile(r"\[(\d+), ?(\d+)\]")


@dataclasses.dataclass(frozen=True)
class RaDt(Format):
    """Dark Room of RA-DT: a `.npz` or `.npy` file a task, or a folder a task with a file an episode."""

    size: int = 10
    columns: int | None = None  # None: as many as rows; a grid that is not square is none of ours, so tasks are ids
    episode_length: int | None = None  # None: 100, 400 in a grid of 20, 800 in one of 20 rows and 40 columns
    start: Literal["center", "corner", "random"] = "corner"
    reward: Literal["every_step", "once", "terminate"] = "every_step"
    in_time: bool = False  # files of episodes are in the order of time, also where their returns only rise

    def open(self, paths: Sequence[Path]) -> Foreign:
        streams, files, episodes = [], [], []
        for path in _tasks(paths):
            pieces = _episodes(path) if path.is_dir() else [path]
            arrays = [Records(piece) if piece.suffix == ".npy" else Zipped(piece) for piece in pieces]
            names = (
                ("states", "actions", "rewards", "dones")
                if path.is_dir()
                else ("observations", "actions", "rewards", "dones")
            )
            for one in arrays:
                require(f"{path.name}/{one.name}" if path.is_dir() else one.name, one.headers, names)
                one.check()
            steps = sum(one.headers["rewards"][0][0] for one in arrays)
            goal, known = _goal(path), self.in_time or (path / ORDER).is_file()
            read = functools.partial(self._history, arrays, path.name, goal, known)
            streams.append(Stream(path.name, steps, read))
            files += pieces
            episodes += pieces if path.is_dir() else []
        cells = (self.size, self.columns or self.size)
        square = cells[0] == cells[1]
        limit = self.episode_length or LIMITS.get(cells, 100 if square else None)
        family = DarkRoom(self.size, limit or 100, self.start, self.reward) if square else None
        spec = None if square else Spec(Discrete(len(OURS)), (2,), cells)
        origin = Origin(
            resets="the environment's wrapper, within the step that ends an episode",
            termination="derived: an end that pays" if self.reward == "terminate" else "every end is the time limit",
            memory="none: PPO on the cell",
            notes=(
                "actions are renamed to ad_jax's",
                "the goal is turned around, from (column, row)",
                *([] if square else [f"no world here has {cells[0]} x {cells[1]} cells: tasks are ids, not checked"]),
            ),
        )
        return Foreign(streams, origin, files, spec, family, limit, pieces=episodes)

    def _history(
        self, arrays: Sequence[Zipped | Records], name: str, goal: np.ndarray | None, in_time: bool
    ) -> History:
        in_pieces = "states" in arrays[0].headers
        seen = "states" if in_pieces else "observations"
        held = {field: [one.read(field, None) for one in arrays] for field in (seen, "actions", "rewards")}
        if in_pieces:
            if not in_time:
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
        if (odd := ((state < 0) | (state >= (self.size, self.columns or self.size))).any(axis=1)).any():
            raise ForeignHistoriesError(
                f"{name}: {state[odd.argmax()].tolist()} at step {int(odd.argmax())} is no cell (row, column) of "
                f"{self.size} x {self.columns or self.size}. Say size, its rows, and columns where they are others"
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
        task: dict[str, Any] = {"task": {"goal": np.asarray(goal, np.int32)}}
        if self.columns not in (None, self.size):
            task = {"task_id": f"goal-{int(goal[0])}-{int(goal[1])}"}
        return History(state, OURS[action.astype(int)], reward, ended, done & ~ended, **task)


def _tasks(paths: Sequence[Path]) -> list[Path]:
    """Return what is of one task each: `.npz` and `.npy` files, or folders of them with `episode_*.json`."""
    found: list[Path] = []
    for path in paths:
        if path.suffix == ".pkl" or (path.is_dir() and list(path.rglob("*.pkl"))):
            raise ForeignHistoriesError(f"{path}: a pickled buffer: {PICKLED}")
        if not path.exists():
            raise ForeignHistoriesError(f"{path} is not there")
        if not path.is_dir() or list(path.glob("episode_*.json")):
            found.append(path)
        else:
            inside = sorted((p for p in path.iterdir() if p.suffix in READ or p.is_dir()), key=natural)
            found += _tasks(inside)
    return found


def _episodes(folder: Path) -> list[Path]:
    """Return a folder's files, one an episode, in the order of time."""
    files = [path for path in folder.iterdir() if path.suffix in READ]
    if other := sorted(path for path in folder.iterdir() if path.suffix in NOT_READ):
        raise ForeignHistoriesError(
            f"{other[0]}: an episode in {other[0].suffix} is not read. Save each as .npz: numpy.savez(path, "
            "states=..., actions=..., rewards=..., dones=...)"
        )
    if not files:
        raise ForeignHistoriesError(f"{folder} has episode_*.json, and no episode as .npz or .npy beside it")
    if not (folder / ORDER).is_file():
        return sorted(files, key=natural)
    order = read_json(folder / ORDER, dict[str, int], ForeignHistoriesError, "get it again")
    if missing := [path.name for path in files if path.stem not in order]:
        raise ForeignHistoriesError(f"{folder / ORDER} says no number of {missing[0]}. Is it of another folder?")
    return sorted(files, key=lambda path: order[path.stem])


def _goal(path: Path) -> np.ndarray | None:
    """Return the goal that a name tells, (row, column); None where it tells none."""
    places = PLACES.findall(path.name)
    if len(places) > 2:
        raise ForeignHistoriesError(
            f"{path.name}: start, key and door are of Key-to-Door, and Dark Room alone is read here. Import it as npz, "
            "with the names of docs/histories.md and env=dark_key_to_door"
        )
    return np.array([int(places[-1][1]), int(places[-1][0])]) if len(places) >= 2 else None


def _check_order(returns: list[float], name: str) -> None:
    """Raise ForeignHistoriesError where episodes were sorted by return, lowest first: that is no order in time."""
    change = np.diff(returns)
    if (rises := int((change > 0).sum())) >= RISES and not (change < 0).any():
        raise ForeignHistoriesError(
            f"{name}: the returns of its {len(returns)} episodes rise {rises} times and never fall: they were sorted "
            f"(sort_by_return), and their order in time is lost. Save them again without, or with {ORDER}, or say "
            "in_time=true if it is that of time"
        )
