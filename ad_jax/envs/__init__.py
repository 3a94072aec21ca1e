"""Task families, by name. To add one: a file like `dark_room.py`, and a line here (or none: `"my_pkg.env:MyEnv"`)."""

from collections.abc import Mapping

from ad_jax import registry
from ad_jax.envs import undrawn as undrawn  # before whatever imports gymnax
from ad_jax.envs.base import TaskFamily
from ad_jax.files import Json

FAMILIES = {
    "bandit": "ad_jax.envs.bandit:Bandit",
    "dark_key_to_door": "ad_jax.envs.dark_key_to_door:DarkKeyToDoor",
    "dark_room": "ad_jax.envs.dark_room:DarkRoom",
    "dark_room_hard": "ad_jax.envs.dark_room_hard:DarkRoomHard",
    "dark_room_permuted": "ad_jax.envs.dark_room_permuted:DarkRoomPermuted",
    "gymnax": "ad_jax.envs.gymnax_adapter:Gymnax",
    "point_mass": "ad_jax.envs.point_mass:PointMass",
    "random_mdp": "ad_jax.envs.random_mdp:RandomMDP",
    "watermaze": "ad_jax.envs.watermaze:Watermaze",
}
# Of other libraries, which are installed apart: `ad-jax info` says which are here.
OUTSIDE = {
    "brax": "ad_jax.envs.outside.brax:Brax",
    "craftax": "ad_jax.envs.outside.craftax:Craftax",
    "craftax_classic": "ad_jax.envs.outside.craftax:CraftaxClassic",
    "jumanji": "ad_jax.envs.outside.jumanji:Jumanji",
    "minigrid": "ad_jax.envs.outside.minigrid:MiniGrid",
    "navix": "ad_jax.envs.outside.navix:Navix",
    "pgx": "ad_jax.envs.outside.pgx:Pgx",
    "playground": "ad_jax.envs.outside.playground:Playground",
    "xland": "ad_jax.envs.outside.xland:XLand",
}


def make(name: str, options: Mapping[str, Json] | None = None) -> TaskFamily:
    """Return the task family `name` with its static `options`.

    Raises:
        ConfigError: for an unknown family or option, with near matches.
    """
    return registry.make("env", name, options, FAMILIES | OUTSIDE, TaskFamily)
