"""The MiniGrid environments of the library XLand-MiniGrid (`xminigrid`): the task is the layout.

A level's key makes walls, objects and the start, which are the same in each of its episodes. See `xland.py` for what is
seen and done.
"""

import dataclasses

import jax

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.tasks import KeyTask
from ad_jax.envs.outside.xland import XMiniGrid
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class MiniGrid(XMiniGrid, KeyTask):
    """MiniGrid in JAX (xminigrid): a layout of rooms, doors and keys is the task."""

    env_id: str = "MiniGrid-DoorKey-6x6"
    steps: int = 100

    def known(self) -> list[str]:
        return [name for name in super().known() if not name.startswith("XLand")]

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        env, params = self.inner
        begun = env.reset(params, self.level_key(task))
        return begun.replace(state=begun.state.replace(key=key))
