"""Pgx (`pgx`), board and card games against an opponent in the environment: the task is the opponent, or the board.

task="opponent"  an order in which the opponent likes its actions, drawn once a task: it always does the one it likes
                 best of those that it may. It can be found out and beaten. The board, and who begins, are drawn anew
task="board"     what the game begins with: the deal, the board, who begins. The opponent does anything that it may,
                 each with the same chance; games of one player have no opponent

The agent is player 0. A step is its action and those of the others until it is its turn again, and pays what player 0
earned in all of them. What is seen is the game as player 0 sees it, and the mask of what may be done; an action that
may not be done loses the game, as the library has it. At the end of a game everything may be done, and does nothing.

Games end by their rules, some after a number of moves, which is part of the game: the library never truncates.

Source: Koyamada et al. 2023 (arXiv 2303.17503), github.com/sotetsuk/pgx.
"""

import dataclasses
from importlib import import_module
from typing import Any, Literal

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import KeyTask
from ad_jax.errors import ConfigError
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Pgx(KeyTask):
    """Pgx: a board or card game; the opponent, or what the game begins with, is the task."""

    library = named("pgx")
    env_id: str = "tic_tac_toe"
    steps: int = 100
    task: Literal["opponent", "board"] = "opponent"

    def known(self) -> list[str]:
        return list(import_module("pgx").available_envs())

    def make(self) -> Any:
        env = import_module("pgx").make(self.env_id)
        if env.num_players == 1 and self.task == "opponent":
            raise ConfigError(f"{self.env_id} is a game of one player; set env.task=board")
        return env

    @property
    def start_varies(self) -> bool | None:
        """Whether the board is drawn anew; with one that is not, an opponent who begins may still make a difference."""
        return True if self.task == "opponent" else None

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        key, key_board = jax.random.split(key)
        board = self.inner.init(self.level_key(task) if self.task == "board" else key_board)
        return self._others(key, board, task)[0]

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        key, key_step = jax.random.split(key)
        moved = self.inner.step(inner, action, key_step)
        after, more = self._others(key, moved, task)
        return after, moved.rewards[0] + more, after.terminated

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return self.inner._observe(inner, jnp.int32(0)), inner.legal_action_mask

    def actions(self) -> spaces.Discrete:
        return spaces.Discrete(self.inner.num_actions)

    def _others(self, key: jax.Array, state: PyTree, task: Params) -> tuple[PyTree, Array]:
        """Let the others act until it is the agent's turn, or the end; also what the agent earned meanwhile."""

        def theirs(carry):
            return (carry[0].current_player != 0) & ~carry[0].terminated

        def act(carry):
            state, earned, key = carry
            key, key_act, key_step = jax.random.split(key, 3)
            state = self.inner.step(state, self._chosen(key_act, state.legal_action_mask, task), key_step)
            return state, earned + state.rewards[0], key

        return jax.lax.while_loop(theirs, act, (state, jnp.float32(0), key))[:2]

    def _chosen(self, key: jax.Array, legal: Array, task: Params) -> Array:
        """Return an opponent's action among the legal ones, `[A]` bool."""
        if self.task == "board":
            return jax.random.categorical(key, jnp.where(legal, 0.0, -jnp.inf))
        place = jax.random.permutation(self.level_key(task), len(legal))
        return jnp.argmin(jnp.where(legal, place, len(legal)))
