"""Files that stay open between two histories: a few, the least recently used is closed, and in the end all are."""

import collections
from collections.abc import Callable, Hashable
from typing import Any

MOST = 64

_open: collections.OrderedDict[Hashable, tuple[Any, Callable[[], None]]] = collections.OrderedDict()


def keep(key: Hashable, opened: Any, close: Callable[[], None]) -> Any:
    """Keep what is open under a key, and return it."""
    drop(key)
    _open[key] = opened, close
    while len(_open) > MOST:
        _open.popitem(last=False)[1][1]()
    return opened


def advance(key: Hashable, opened: Any, close: Callable[[], None]) -> None:
    """Keep something else under a key that is of the same open file, if one was: nothing is closed."""
    _open.pop(key, None)
    keep(key, opened, close)


def find(key: Hashable) -> Any:
    """Return what is open under a key; None where nothing is."""
    if key not in _open:
        return None
    _open.move_to_end(key)
    return _open[key][0]


def drop(key: Hashable) -> None:
    """Close what is open under a key."""
    if key in _open:
        _open.pop(key)[1]()


def close() -> None:
    """Close everything."""
    while _open:
        _open.popitem()[1][1]()
