"""Headless-AD (corl-team/headless-ad): a folder a history, `metadata.metadata` and pieces of it in time.

Pieces hold states, actions, rewards and dones `[n, 1]`. An action is a number in that environment's own set of actions,
which is not stored: actions of two histories cannot be compared, so each history is a task of its own. The last steps
may belong to an episode that does not end.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats.ad_eps import metadata_of
from ad_jax.formats.base import Foreign, Format, Stream, expand, flags, names_of, reading, require
from ad_jax.formats.zipped import Zipped, joined
from ad_jax.history.foreign import History, Origin
from ad_jax.history.write import UNKNOWN
from ad_jax.types import Discrete, Spec


@dataclasses.dataclass(frozen=True)
class HeadlessAd(Format):
    """Histories of Headless-AD: a folder each, whose actions are numbered by their own environment."""

    num_actions: int | None = None  # None: one more than the largest
    num_states: int | None = None  # None: one more than the largest
    episode_length: int | None = None  # None: the longest episode of the first history

    def open(self, paths: Sequence[Path]) -> Foreign:
        streams, files, histories = [], [], []
        found = expand(paths, "*.metadata")
        for path, name in zip(found, names_of([path.parent for path in found]), strict=True):
            names, _ = metadata_of(path)
            pieces = [Zipped(path.parent / name) for name in names]
            for piece in pieces:
                require(piece.name, piece.headers, ("states", "actions", "rewards", "dones"))
                piece.check()
            files += [path, *(piece.path for piece in pieces)]
            histories.append(pieces)
            steps = sum(int(np.prod(piece.headers["rewards"][0])) for piece in pieces)
            streams.append(Stream(name, steps, lambda pieces=pieces, name=name: _history(pieces, name)))
        spec = Spec(
            Discrete(self.num_actions or _largest(histories, "actions") + 1),
            (),
            (self.num_states or _largest(histories, "states") + 1,),
        )
        origin = Origin(
            resets="the generator, after the step that ends an episode",
            termination=UNKNOWN,
            memory="none: a table of the state",
            notes=("an action is a number in its own environment's set: actions of two histories cannot be compared",),
        )
        parts = [piece.path for pieces in histories if len(pieces) > 1 for piece in pieces]
        return Foreign(streams, origin, files, spec, episode_length=self.episode_length, pieces=parts)


def _history(pieces: list[Zipped], name: str) -> History:
    state, action, reward, done = (joined(pieces, field) for field in ("states", "actions", "rewards", "dones"))
    if (state != np.floor(state)).any():
        raise ForeignHistoriesError(f"{name}: states are no whole numbers. Import them as npz, with other names")
    return History(state, action, reward, truncated=flags(done, f"{name}: dones"), task_id=name)


def _largest(histories: list[list[Zipped]], field: str) -> int:
    most = 0
    for pieces in histories:
        with reading(f"{pieces[0].path.parent.name}/{pieces[0].name}"):
            most = max(most, int(joined(pieces, field).max()))
    return most
