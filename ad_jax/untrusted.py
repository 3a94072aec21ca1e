"""JSON that somebody else may have written: read as data, within bounds, before anything is believed of it."""

import json
from typing import Any

DEEPEST = 100  # lists and objects inside each other; ours have about ten, and Python gives up near a thousand
DIGITS = 19  # of an integer: more than 64 bits hold overflow wherever they meet a float or an array


def parse(text: str | bytes) -> Any:
    """The data of a JSON text.

    Raises:
        ValueError: for what is no JSON, is nested too deeply, or holds an integer of more than 19 digits.
    """
    try:
        data = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEEPEST} deep") from error
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return data
    raise ValueError(f"nested more than {DEEPEST} deep")


def _inside(outer: Any) -> Any:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)
