"""AD-epsilon (corl-team/ad-eps): Dark Room and Dark Key-to-Door, a metadata file and `.npz` files beside it.

`metadata.metadata` is JSON with `ordered_trajectories`, names of files, and `goal`, and it is written with two
meanings: `generate_trajectories.py` writes one for all goals, and the i-th file is the history of the i-th; and
`q_learning.py` writes one a history, whose files are its pieces in time. Which it is shows in how deep `goal` is, and
for that the world must be known (`env`): two goals of Dark Room look like one key and its door.

Observations there are `row * size + column`, actions stay, up, right, down, left. Here they are (row, column), and
stay, down, up, right, left; so what is trained on them is evaluated in our own worlds. `dones` is written for
terminated or truncated alike; Key-to-Door has none, so an episode ends there with the door's reward or its last step.
Its Watermaze has another layout (`ad_eps_watermaze.py`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ForeignHistoriesError
from ad_jax.files import JsonObject, read_json
from ad_jax.formats.base import Foreign, Format, Stream, expand, flags, require
from ad_jax.formats.zipped import Zipped, joined
from ad_jax.history.foreign import History, Origin
from ad_jax.process.metrics import log

OURS = np.array([0, 2, 3, 1, 4])  # stay, up, right, down, left, as they are called here
KEY_TO_DOOR_STEPS = 40
UNIQUE = "File names there have 3 to 5 hex digits, so histories of a large collection were written over each other"


@dataclasses.dataclass(frozen=True)
class AdEps(Format):
    """Dark Room and Key-to-Door of AD-epsilon: a metadata file and `.npz` files."""

    env: Literal["dark_room", "dark_key_to_door"] = "dark_room"
    size: int = 9
    episode_length: int | None = None  # None: 20 in Dark Room, 40 in Key-to-Door
    start: Literal["center", "corner", "random"] | None = None  # None: the center, in Key-to-Door random
    reward: Literal["every_step", "once", "terminate"] | None = None  # None: every step, in Key-to-Door terminate

    def open(self, paths: Sequence[Path]) -> Foreign:
        streams: list[Stream] = []
        files: list[Path] = []
        pieces: list[Path] = []
        for path in expand(paths, "*.metadata"):
            found, arrays = self._of_metadata(path)
            streams += found
            files += [path, *(one.path for one in arrays)]
            pieces += [one.path for one in arrays] if len(arrays) > len(found) else []
        room, family = self.env == "dark_room", self._family()
        ends = "derived: an end that pays" if family.reward == "terminate" else "every end is the time limit"
        origin = Origin(
            resets="the generator, after the step that ends an episode",
            termination=ends,
            memory="none: a policy of the cell",
            notes=(f"actions and {'the goal' if room else 'key and door'} are renamed to ad_jax's",),
        )
        return Foreign(streams, origin, files, family=family, pieces=pieces)

    def _family(self) -> DarkRoom | DarkKeyToDoor:
        if self.env == "dark_room":
            return DarkRoom(self.size, self.episode_length or 20, self.start or "center", self.reward or "every_step")
        steps = self.episode_length or KEY_TO_DOOR_STEPS
        return DarkKeyToDoor(self.size, steps, self.start or "random", self.reward or "terminate")

    def _of_metadata(self, path: Path) -> tuple[list[Stream], list[Zipped]]:
        """Return the histories of a metadata file, and the files that they are in."""
        names, goal = metadata_of(path)
        depth = np.ndim(goal)
        one = 1 if self.env == "dark_room" else 2
        if depth not in (one, one + 1):
            expected, other = ("cell", "dark_key_to_door") if one == 1 else ("key and door", "dark_room")
            raise ForeignHistoriesError(
                f"{path}: goal is {str(goal)[:60]}, no {expected} and no list of them. Say env={other} if it is of that"
            )
        arrays = [Zipped(path.parent / name) for name in names]
        for one_file in arrays:
            require(one_file.name, one_file.headers, ("states", "actions", "rewards"))
            one_file.check()
        if depth == one:  # one history in pieces
            return [self._stream(arrays, goal, path.parent.name)], arrays
        if len(goal) != len(names):
            raise ForeignHistoriesError(
                f"{path}: expected a goal for each of {len(names)} files, received {len(goal)}. Is it of one history "
                f"of env={'dark_key_to_door' if one == 1 else 'dark_room'}?"
            )
        return [self._stream([one], task, one.name) for one, task in zip(arrays, goal, strict=True)], arrays

    def _stream(self, pieces: list[Zipped], goal: object, name: str) -> Stream:
        steps = sum(int(np.prod(piece.headers["rewards"][0])) for piece in pieces)
        return Stream(name, steps, lambda: self._history(pieces, goal, name))

    def _history(self, pieces: list[Zipped], goal: object, name: str) -> History:
        state, action, reward = (joined(pieces, field) for field in ("states", "actions", "rewards"))
        if (odd := (state != np.floor(state)) | (state < 0) | (state >= self.size**2)).any():
            raise ForeignHistoriesError(
                f"{name}: state {state[odd.argmax()]:g} is no cell of a grid of size={self.size}. Say its size"
            )
        if (odd := (action < 0) | (action >= len(OURS))).any():
            raise ForeignHistoriesError(f"{name}: action {action[odd.argmax()]} is none of 0 to 4")
        if all("dones" in piece.headers for piece in pieces):
            done = flags(joined(pieces, "dones"), f"{name}: dones")
        else:
            done = self._ends(reward, name)
        if all("eps" in piece.headers for piece in pieces) and (joined(pieces, "eps") == 1).all():
            log(f"import   {name}: its eps is 1 at every step, so it is a random policy's and nothing improves in it")
        terminated = done & (reward > 0) if self._family().reward == "terminate" else np.zeros_like(done)
        if self.env == "dark_key_to_door" and self._family().reward == "terminate":
            terminated = _doors(reward, done)
        cells = np.asarray(goal, np.int32)
        task = {"goal": cells} if self.env == "dark_room" else {"key": cells[0], "door": cells[1]}
        return History(
            np.stack(np.divmod(state.astype(np.int64), self.size), axis=-1),
            OURS[action.astype(np.int64)],
            reward,
            terminated,
            done & ~terminated,
            task=task | _limit(self._family()),
        )

    def _ends(self, reward: np.ndarray, name: str) -> np.ndarray:
        """Return where the episodes of Key-to-Door end, which has no dones: with the last step, or a door that ends."""
        if self.env != "dark_key_to_door":
            raise ForeignHistoriesError(f"{name} has no dones, which only env=dark_key_to_door can do without")
        family = self._family()
        done, earned, since, limit = np.zeros(len(reward), bool), 0.0, 0, family.steps
        enough = 2 if family.reward == "terminate" else np.inf
        for step, paid in enumerate(reward.tolist()):
            earned, since = earned + paid, since + 1
            if earned >= enough or since == limit:
                done[step], earned, since = True, 0.0, 0
        return done


def _doors(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return the ends of episodes in which both key and door were paid."""
    total = np.cumsum(reward)
    before = np.concatenate([[0.0], total[done][:-1]]) if done.any() else np.zeros(0)
    opened = np.zeros_like(done)
    opened[np.flatnonzero(done)] = total[done] - before >= 2
    return opened & (reward > 0)


def _limit(family: TaskFamily) -> dict[str, np.ndarray]:
    return {"max_steps_in_episode": np.asarray(family.episode_length, np.int32)}


def metadata_of(path: Path) -> tuple[list[str], list]:
    """Return the files and the goal that a metadata file names."""
    found: JsonObject = read_json(path, error=ForeignHistoriesError, remedy="get it again")
    require(path.name, found, ("ordered_trajectories", "goal"))
    names, goal = found["ordered_trajectories"], found["goal"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ForeignHistoriesError(f"{path}: expected ordered_trajectories to be names of files")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ForeignHistoriesError(
            f"{path}: {', '.join(twice[:3])} is named more than once in ordered_trajectories. {UNIQUE}: what goal such "
            "a file is of cannot be known. Make them again under longer names, or take these out, with their goals"
        )
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise ForeignHistoriesError(f"{path}: {name} is no file beside it. Keep the files of a folder together")
    if not isinstance(goal, list):
        raise ForeignHistoriesError(f"{path}: expected goal to be a cell or a list of cells, received {goal!r}")
    return names, goal
