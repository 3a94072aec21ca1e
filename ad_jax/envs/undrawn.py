"""Gymnax without what it draws with: its environments import seaborn, and that pandas and scipy.stats, for pictures.

A process that draws none of them would pay 1.3 CPU seconds at its start, a third of all that it imports. seaborn is
loaded when something of it is used.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _PutOff:
    """Finds one module and leaves it unloaded until an attribute of it is asked for."""

    def __init__(self, name: str):
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextlib.contextmanager
def put_off(name: str) -> Iterator[None]:
    """Within, an import of the module `name` binds it and runs nothing of it yet.

    Python's own lazy loader, but for one module: it needs nothing of the code that imports it. A module that has been
    loaded before stays as it is, and one that is not installed is missing as ever.
    """
    finder = _PutOff(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with put_off("seaborn"):
    importlib.import_module("gymnax.environments")
