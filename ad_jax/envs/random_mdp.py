"""Random worlds: a new Markov decision process for every task, with nothing to know beforehand.

From each state each action leads to a state drawn at random (`branching` of them, with random chances), and one state
is the goal. Every task draws all of it anew, and what a state or an action is called means nothing. What can be learned
over such worlds is how to learn a world.

    reward="goal"    1 for each step that ends at the goal, drawn among the states that can be reached
    reward="dense"   every state pays an amount of its own, uniform on [0, 1), on arrival
    at_goal="go_on"  the episode goes on; with `stay`, the agent can stay there
    at_goal="end"    it ends the episode
    start="fixed"    in one state of the task        start="random"  in any from which the goal can be reached
    stay=True        one action of a task stays where one is, everywhere, as in Dark Room
    fewest=8         worlds have from 8 to `states` states, with labels of all `states`

Source: random tabular worlds as training for in-context learners: AnyMDP (OmniRL, arXiv 2502.02869), which draws its
own kind; here the dark grids' rewards and horizon are kept, so that a grid is one of these worlds under other labels.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import take
from ad_jax.envs.table import Params, State, TableWorld, relabeled, steps_in
from ad_jax.errors import ConfigError
from ad_jax.keys import a_key


@dataclasses.dataclass(frozen=True)
class RandomMDP(TableWorld):
    """Options of random worlds: `states` and `actions` labels, `steps` per episode.

    Raises:
        ConfigError: for sizes of which no world can be made, or a slip that is no probability.
    """

    branching: int = 1  # outcomes of an action in a state
    slip: float = 0.0  # how often another action is taken than was chosen
    stay: bool = True
    reward: Literal["goal", "dense"] = "goal"
    at_goal: Literal["go_on", "end"] = "go_on"
    start: Literal["fixed", "random"] = "fixed"
    fewest: int | None = None  # states of the smallest worlds; None: `states`

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("states", 2), ("actions", 2), ("branching", 1), ("steps", 1)):
            if (found := getattr(self, name)) < least:
                raise ConfigError(f"a random world needs env.{name} of at least {least}; got {found}")
        if not 0 <= self.slip <= 1:
            raise ConfigError(f"env.slip is a probability, in [0, 1]; got {self.slip}")
        if self.fewest is not None and not 2 <= self.fewest <= self.states:
            raise ConfigError(f"env.fewest must be from 2 to env.states={self.states}; got {self.fewest}")
        if self.reward == "dense" and self.at_goal == "end":
            raise ConfigError('env.at_goal="end" needs env.reward="goal"; with "dense" there is no goal')

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.reward == "goal" else np.float32)

    @property
    def start_varies(self) -> bool:
        return self.start == "random"

    @property
    def default_params(self) -> Params:
        return take(self._drawn(a_key(0), 1), 0)  # compiled: operations one by one take seconds

    def starts_at(self, observation: jax.Array, params: Params) -> State | None:
        """Return that state where an action has one outcome; drawn ones cannot be checked step by step."""
        return State(jnp.int32(0), observation) if self.branching == 1 and self.slip == 0 else None

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        return self._drawn(key, n)

    def describe(self, task: Params) -> str:
        used = np.asarray(task.chance).sum((1, 2)) > 0
        text = f"{used.sum()} states"
        if self.reward == "goal":
            best = float(self.optimal_return(jax.tree.map(lambda x: jnp.asarray(x)[None], task))[0])
            goal = int(np.asarray(task.successor)[np.asarray(task.reward) > 0][0])
            pays = np.asarray(task.reward * task.chance).sum((1, 2)) > 0
            others = pays.sum() - pays[goal]
            text += f", goal {goal}, one step from {others} of the others; {best:.1f} can be earned"
        return text

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def _drawn(self, key: jax.Array, n: int) -> Params:
        return jax.vmap(self._draw_one)(jax.random.split(key, n))

    def _draw_one(self, key: jax.Array) -> Params:
        """Draw a task; the key is consumed. State 0 is where episodes begin, until all are given other labels."""
        states, actions, branching = self.states, self.actions, self.branching
        key_size, key_next, key_way, key_chance, key_pay, key_label = jax.random.split(key, 6)
        size = jax.random.randint(key_size, (), self.fewest or states, states + 1, jnp.int32)
        numbers = jnp.arange(states, dtype=jnp.int32)
        successor = jax.random.randint(key_next, (states, actions, branching), 0, size, jnp.int32)
        # From state 0 the last action leads to another state, so that there is somewhere to go.
        successor = successor.at[0, -1, 0].set(jax.random.randint(key_way, (), 1, size, jnp.int32))
        if self.stay:
            successor = successor.at[:, 0].set(numbers[:, None])
        # Exponential in proportion is uniform on the simplex; a draw can be 0, and all of them at once must not be.
        chance = jax.random.exponential(key_chance, (states, actions, branching), jnp.float32) + jnp.float32(1e-9)
        chance = jnp.where(numbers[:, None, None] < size, chance / chance.sum(-1, keepdims=True), 0.0)
        reach = reachable(successor, numbers < size)
        if self.reward == "dense":
            pays = jax.random.uniform(key_pay, (states,), jnp.float32)
            begins, ends = numbers < size, jnp.zeros(states, bool)
        else:
            able = reach[0] & (numbers > 0)
            goal = jax.random.categorical(key_pay, jnp.log(able.astype(jnp.float32))).astype(jnp.int32)
            pays = (numbers == goal).astype(jnp.float32)
            begins = reach[:, goal] & (numbers != goal) & (numbers < size)
            ends = (numbers == goal) & (self.at_goal == "end")
        if self.start == "fixed":
            begins = numbers == 0
        start = begins.astype(jnp.float32) / begins.sum().astype(jnp.float32)
        rest = steps_in(self.steps), successor, chance, pays[successor], ends
        task = Params(*rest, start, jnp.float32(self.slip))
        return relabeled(key_label, task)


def reachable(successor: jax.Array, used: jax.Array) -> jax.Array:
    """Return which states can be reached from which, `[S, S]` bool, in any number of steps and in none."""
    states = len(used)
    rows = jnp.arange(states, dtype=jnp.int32)[:, None]
    once = jnp.zeros((states, states), bool).at[rows, successor.reshape(states, -1)].set(True)
    once = (once | jnp.eye(states, dtype=bool)) & used[:, None] & used[None]
    for _ in range((states - 1).bit_length()):  # each doubles how many steps are looked ahead
        once = (once.astype(jnp.int32) @ once.astype(jnp.int32)) > 0
    return once
