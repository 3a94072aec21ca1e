"""The search for a hidden goal in a known room, planned ahead, and bounds on any search. NumPy, on the host.

Before the goal is found one learns nothing but "not in these cells", so everything that an explorer can decide until
then is one walk: `steps` moves from the start cell in every episode. A goal on a cell that the walk first steps on at
step t of episode e pays the rest of that episode there, and its optimal return in each later one. So the optimal
explorer of a uniform prior is the walk with the largest sum of that over cells, and then the shortest way.

`plan` looks for that walk by beam search, which does not prove that its walk is the best; `bounds` says how much better
any other could be at most. Where the two agree the walk is optimal.

Letters: C cells, numbered as in `envs/grid.py`, A moves, T steps of an episode, E episodes of the horizon.
"""

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from ad_jax.envs.grid import MOVES, cells, distance

# Price of leaving a cell behind, by its unseen neighbors: one without any costs a journey of its own.
ISOLATION = np.array([4.0, 2.0, 1.0, 0.3, 0.0])
# (weight of isolation, weight of distance) as shares of the horizon: which walks a beam keeps. The best is taken.
KEEPS = {"every_step": ((0.6, 0.0), (0.45, 0.0)), "once": ((0.1, 0.03), (0.01, 0.01))}


@dataclasses.dataclass(frozen=True)
class Room:
    """A room whose goal alone is unknown. Fields as in `envs/dark_room.py`; the start is fixed."""

    size: int
    steps: int
    start: str
    reward: str

    @property
    def first(self) -> int:
        """The cell in which every episode begins."""
        return (self.size // 2 if self.start == "center" else 0) * (self.size + 1)

    @property
    def reached(self) -> np.ndarray:
        """The cell that each move leads to, `[C, A]`."""
        moved = np.clip(cells(self.size)[:, None] + np.array(MOVES), 0, self.size - 1)
        return moved @ np.array([self.size, 1])

    @property
    def arrival(self) -> np.ndarray:
        """The first step that can end on each cell, `[C]`; for the first cell that is 1: a reset pays nothing."""
        return np.maximum(distance(cells(self.size), cells(self.size)[self.first]), 1)

    @property
    def pays(self) -> np.ndarray:
        """What an episode pays whose step 1, 2, ... T is the first at the goal, `[T]`."""
        return np.arange(self.steps, 0, -1) if self.reward == "every_step" else np.ones(self.steps, int)

    @property
    def optimal(self) -> np.ndarray:
        """What an episode pays once the goal is known, `[C]`; 0 for cells that are too far."""
        return np.append(self.pays, 0)[np.minimum(self.arrival - 1, self.steps)]


def returns(room: Room, actions: np.ndarray, episodes: int) -> np.ndarray:
    """Return of each episode for each goal, `[E, C]`: exact, of `actions [episodes planned, T]`, then the best way."""
    earned, seen = np.zeros((episodes, room.size**2), int), np.zeros(room.size**2, bool)
    optimal, pays, reached = room.optimal, room.pays, room.reached
    for episode in range(episodes):
        earned[episode] = optimal * seen
        cell = room.first
        for now, action in zip(pays, actions[episode] if episode < len(actions) else ()):
            cell = reached[cell, action]
            if not seen[cell]:
                seen[cell], earned[episode, cell] = True, now
    return earned


def plan(room: Room, episodes: int, beam: int) -> np.ndarray:
    """Return the moves `[episodes planned, T]` int32 of the best walk that was found for a horizon of `episodes`.

    It ends with the episode in which the last cell that can be reached is seen, or with the horizon.
    """
    found = [_search(room, episodes, beam, *(episodes * weight for weight in keep)) for keep in KEEPS[room.reward]]
    return max(found, key=lambda actions: returns(room, actions, episodes).sum())


def bounds(room: Room, episodes: int) -> tuple[np.ndarray, float]:
    """No explorer has a larger expected return: in each episode by itself, `[E]`, and in all of them together.

    A step shows at most one cell, and step t no cell that is more than t steps from the start. The best way to give
    each cell a step of its own under these rules, without regard to whether a walk joins them, is an assignment
    problem; its value is the bound.
    """
    room_has, count = np.arange(1, room.steps + 1) >= room.arrival[:, None], room.size**2  # [C, T], C
    now, later = np.where(room_has, room.pays, 0), np.where(room_has, room.optimal[:, None], 0)
    each = np.zeros(episodes)
    for episode in range(episodes):
        each[episode] = _assigned(np.concatenate([later] * episode + [now], axis=1)) / count
        if each[episode] >= room.optimal.mean() - 1e-9:  # nor has any later one
            each[episode:] = room.optimal.mean()
            break
    # A cell is better found a whole episode earlier, so no more episodes than cells are needed.
    every = [now + (episodes - 1 - episode) * later for episode in range(min(episodes, count))]
    return each, _assigned(np.concatenate(every, axis=1)) / count


def _assigned(worth: np.ndarray) -> float:
    """Return the largest sum of `worth [cells, steps]`, one step for a cell and one cell for a step."""
    return float(worth[linear_sum_assignment(worth, maximize=True)].sum())


@dataclasses.dataclass
class _Walks:
    """K walks of one length, side by side; column C stands for the cells outside, which count as seen."""

    cell: np.ndarray  # [K]
    seen: np.ndarray  # [K, C + 1] bool
    degree: np.ndarray  # [K, C + 1] int8, unseen neighbors
    value: np.ndarray  # [K] what they have earned, over the horizon and summed over goals
    price: np.ndarray  # [K] of what they leave behind
    name: np.ndarray  # [K] uint64, equal where `seen` is


def _search(room: Room, episodes: int, beam: int, isolation: float, far: float) -> np.ndarray:
    """Beam search: of the walks of one length, those of the largest value less price are carried on."""
    count, reached, optimal, arrival = room.size**2, room.reached, room.optimal, room.arrival
    # Random names of cells: the name of a set is their exclusive or, so two walks to the same end are found alike.
    names, ends = np.random.default_rng(0).integers(0, 2**63, (2, count), np.uint64)
    beside = np.where(reached[:, 1:] == np.arange(count)[:, None], count, reached[:, 1:])  # [C, 4]
    alone = isolation * ISOLATION * np.append(optimal, 0)[:, None]  # [C + 1, unseen neighbors]
    seen, none = np.append(optimal == 0, True)[None], np.zeros(1)
    degree = np.append((~seen[0, beside]).sum(1), 0).astype(np.int8)[None]
    walks = _Walks(np.array([room.first]), seen, degree, none, none, np.zeros(1, np.uint64))
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for episode in range(episodes):
        walks.cell = np.full(len(walks.value), room.first)
        for pays in room.pays:
            parent = np.repeat(np.arange(len(walks.value)), len(MOVES))
            move = np.tile(np.arange(len(MOVES)), len(walks.value))
            cell = reached[walks.cell[parent], move]
            value, price, name = walks.value[parent], walks.price[parent], walks.name[parent]
            new = np.flatnonzero(~walks.seen[parent, cell])
            who, where = parent[new], cell[new]
            value[new] += pays + (episodes - 1 - episode) * optimal[where]
            name[new] ^= names[where]
            # A cell that is seen costs nothing any more; its unseen neighbors have one unseen neighbor less.
            near = beside[where]
            degree = walks.degree[who[:, None], near]
            closer = alone[near, np.maximum(degree - 1, 0)] - alone[near, degree]
            closer = np.where(walks.seen[who[:, None], near], 0, closer).sum(1)
            price[new] += closer - alone[where, walks.degree[who, where]] - far * arrival[where]

            best = np.argsort(price - value, kind="stable")
            _, alike = np.unique((name ^ ends[cell])[best], return_index=True)
            kept = best[np.sort(alike)[:beam]]
            rows, parents = np.arange(len(kept)), parent[kept]
            fresh = ~walks.seen[parents, cell[kept]]
            seen, degree = walks.seen[parents], walks.degree[parents]
            seen[rows, cell[kept]] = True
            degree[rows[:, None], beside[cell[kept]]] -= fresh[:, None].astype(np.int8)
            degree[:, count] = 0
            walks = _Walks(cell[kept], seen, degree, value[kept], price[kept], name[kept])
            history.append((parents, move[kept]))
        if walks.seen[np.argmax(walks.value)].all():
            break
    walk, actions = int(np.argmax(walks.value)), []
    for parent, move in reversed(history):
        actions.append(move[walk])
        walk = parent[walk]
    return np.array(actions[::-1], np.int32).reshape(-1, room.steps)
