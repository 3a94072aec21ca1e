"""The table of `docs/envs/gymnax.md`: every environment of gymnax, the parameters that make tasks, or why none can.

python docs/gymnax_table.py            print it
python docs/gymnax_table.py --write    put it into the page; a test compares the two
"""

import pathlib
import sys

import gymnax

from ad_jax.envs.gymnax_adapter import Gymnax
from ad_jax.errors import ConfigError

PAGE = pathlib.Path(__file__).parent / "envs" / "gymnax.md"
BEGIN, END = "<!-- table: python docs/gymnax_table.py --write -->\n", "<!-- end of table -->\n"
NOTES = {  # what to know of a family, beside its parameters
    "Asterix-MinAtar": "felt only after that many steps",
    "DeepSea-bsuite": "an episode ends at the last row, which is the time limit, too: terminated, not truncated",
    "MemoryChain-bsuite": "`step_env` shows the state before; the adapter shows the one that was reached",
    "UmbrellaChain-bsuite": "rewards are int32 there, float32 here",
    "DiscountingChain-bsuite": "stands in the state's rewards from the reset on",
    "FourRooms-misc": "observations are int32 there, float32 here",
    "PointRobot-misc": "its goal is drawn anew in each episode",
    "Reacher-misc": "its goal is drawn anew in each episode, and seen",
    "BernoulliBandit-misc": "which arm is the better one changes from episode to episode, the task does not",
    "GaussianBandit-misc": "the second arm's mean is drawn anew in each episode; the task says from what",
    "Pong-misc": "`ball_x_speed` is the ball's speed at the start",
}


def rows() -> list[str]:
    """Return a row of the table for each environment, in gymnax's order."""
    found = []
    for env_id in gymnax.registered_envs:
        if env_id.startswith("_"):
            continue
        known, told = varying(env_id), NOTES.get(env_id, "")
        found.append(f"| {env_id} | {', '.join(f'`{name}`' for name in known)} | {told} |" if known else "")
        found[-1] = found[-1] or f"| {env_id} | none | refused: {refusal(env_id)} |"
    return found


def varying(env_id: str) -> list[str]:
    """Return the parameters of an environment that can vary; none where no family can be made of it."""
    try:
        Gymnax(env_id, {"?": (0, 1)})
    except ConfigError as error:
        known = str(error).partition("Known: ")[2].partition(".")[0]
        return [] if known in ("", "none") else sorted(known.split(", "))
    raise AssertionError("every parameter is known")


def refusal(env_id: str) -> str:
    """Why no family can be made of an environment."""
    try:
        Gymnax(env_id, {"?": (0, 1)})
    except ConfigError as error:
        return str(error).split(": ", 1)[1] if "env.env_id" in str(error) else str(error).split("none. ")[1]
    raise AssertionError("it was refused")


def table() -> str:
    """Return the table, between its marks."""
    head = ["| environment | parameters that make tasks | to know |", "|---|---|---|"]
    return BEGIN + "\n".join([*head, *rows()]) + "\n" + END


def written(page: str) -> str:
    """Return the page with the table of today."""
    before, rest = page.split(BEGIN)
    return before + table() + rest.split(END)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print(table(), end="")
