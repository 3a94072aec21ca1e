"""Dark Room (Hard): 17x17 cells, 20 steps, and the goal pays once an episode. `dark_room.py` with other defaults.

Source: Laskin et al. 2022 (arXiv 2210.14215), section 4; the text gives both rooms the same 20 steps. From the center
the farthest goals are 16 steps away, so every optimal return is 1.
"""

import dataclasses
from typing import Literal

from ad_jax.envs.dark_room import DarkRoom


@dataclasses.dataclass(frozen=True)
class DarkRoomHard(DarkRoom):
    """Options of Dark Room (Hard)."""

    size: int = 17
    reward: Literal["every_step", "once", "terminate"] = "once"
