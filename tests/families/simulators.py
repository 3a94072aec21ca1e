"""Each world again, in plain NumPy: what a step leads to and pays. Written from what the families say, not their code.

A simulator steps B episodes at a time. States, tasks and observations are arrays `[B, ...]`; states and tasks by name.
It also reads a state off an observation, which in these worlds shows all of it but the time and the task.
"""

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
EXACT, CLOSE = 0.0, 2e-6  # float32 may round a sum of products in another way


class Simulator:
    """One world. `limit` is the most steps an episode has; reals agree within `tolerance`."""

    limit: int
    tolerance = EXACT

    def step(self, state: Arrays, action: np.ndarray, task: Arrays) -> tuple[Arrays, np.ndarray, np.ndarray]:
        """Next state, reward `[B]` float64, and whether the world ended the episode, before any new start."""
        raise NotImplementedError

    def begins(self, state: Arrays, task: Arrays) -> np.ndarray:
        """Whether episodes may begin in these states, `[B]` bool."""
        raise NotImplementedError

    def observe(self, state: Arrays) -> np.ndarray:
        """Return what the agent sees."""
        raise NotImplementedError

    def state_of(self, observation: np.ndarray, time: np.ndarray) -> Arrays:
        """Return the state that shows as `observation` after `time` steps of an episode."""
        raise NotImplementedError


class Town(Simulator):
    """A square of cells, walls around it, and a cell to be reached."""

    def __init__(self, size: int, limit: int):
        self.size, self.limit = size, limit

    def moved(self, cell: np.ndarray, action: np.ndarray) -> np.ndarray:
        row, column = cell[:, 0].copy(), cell[:, 1].copy()
        row += (action == 0).astype(int) - (action == 1).astype(int)
        column += (action == 2).astype(int) - (action == 3).astype(int)
        row[row < 0], row[row == self.size] = 0, self.size - 1
        column[column < 0], column[column == self.size] = 0, self.size - 1
        return np.stack([row, column], axis=1)


class WayOut(Town):
    """`early`."""

    def __init__(self, size: int = 7, nearest: int = 5, steps: int = 60):
        super().__init__(size, steps)

    def step(self, state, action, task):
        cell = self.moved(state["cell"], action)
        out = (cell == task["exit"]).all(1)
        return {"time": state["time"] + 1, "cell": cell}, out.astype(float), out

    def begins(self, state, task):
        return (state["time"] == 0) & (state["cell"] == 0).all(1)

    def observe(self, state):
        return state["cell"]

    def state_of(self, observation, time):
        return {"time": time, "cell": observation.astype(int)}


class Errands(Town):
    """`costs`."""

    def __init__(self, size: int = 5, steps: int = 25, prize: float = 100.0):
        super().__init__(size, steps)
        self.prize = prize

    def step(self, state, action, task):
        place = self.moved(state["place"], action)
        there = (place == task["address"]).all(1)
        return {"time": state["time"] + 1, "place": place}, np.where(there, self.prize, 0.0) - 1.0, there

    def begins(self, state, task):
        return (state["time"] == 0) & (state["place"] != task["address"]).any(1)

    def observe(self, state):
        return state["place"]

    def state_of(self, observation, time):
        return {"time": time, "place": observation.astype(int)}


class Balance(Simulator):
    """`floats`."""

    tolerance = CLOSE

    def __init__(self, steps: int = 30, weakest: float = 0.03, strongest: float = 0.1):
        self.limit = steps

    def step(self, state, action, task):
        velocity = state["velocity"].astype(float) + np.array([-1.0, 0.0, 1.0])[action] * task["gain"].astype(float)
        position = state["position"].astype(float) + velocity
        away = np.abs(position)
        next_state = {"time": state["time"] + 1, "position": position, "velocity": velocity}
        return next_state, 1.0 - np.where(away > 1.0, 1.0, away), away > 1.0

    def begins(self, state, task):
        near = (np.abs(state["position"]) <= 0.6) & (np.abs(state["velocity"]) <= 0.1)
        return (state["time"] == 0) & near

    def observe(self, state):
        return np.stack([state["position"], 5.0 * state["velocity"]], axis=1)

    def state_of(self, observation, time):
        return {"time": time, "position": observation[:, 0], "velocity": observation[:, 1] / np.float64(5.0)}


class Courier(Simulator):
    """`vector`."""

    def __init__(self, places: int = 9, least: int = 20, most: int = 30):
        self.places, self.least, self.limit = places, least, most

    def step(self, state, action, task):
        place = np.minimum(np.maximum(state["place"] + action - 1, 0), self.places - 1)
        parcel, battery = state["parcel"].copy(), state["battery"] - 1
        fetches = (parcel == 0) & (place == task["parcel"])
        delivers = (parcel == 1) & (place == task["shelf"])
        parcel[fetches | delivers] += 1
        after = {"time": state["time"] + 1, "parcel": parcel, "place": place, "battery": battery}
        return after, np.where(fetches | delivers, 1.0, 0.0), delivers | (battery == 0)

    def begins(self, state, task):
        full = (state["battery"] >= self.least) & (state["battery"] <= self.limit)
        return (state["time"] == 0) & (state["parcel"] == 0) & (state["place"] == self.places // 2) & full

    def observe(self, state):
        return np.stack([state["parcel"], state["place"], state["battery"]], axis=1)

    def state_of(self, observation, time):
        seen = observation.astype(int)
        return {"time": time, "parcel": seen[:, 0], "place": seen[:, 1], "battery": seen[:, 2]}


BY_NAME: dict[str, Any] = {world.__name__: world for world in (WayOut, Errands, Balance, Courier)}
