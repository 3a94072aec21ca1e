"""Gymnax without what it draws with, and of its own environments only those that are used.

To import any part of gymnax imports all of its environments, which import matplotlib, seaborn and with it pandas and
scipy.stats for pictures, and all of gymnasium for its spaces: a half of what a process imports at its start. Our own
families need two small files of it. So three packages are found and do not run until something is asked of them that
is no module in them; and a process that uses gymnax's environments, and draws none, is spared seaborn.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = "gymnax", "gymnax.environments", "gymnasium"
DRAWING = "seaborn"  # not pyplot as well: environments name its types, which loads it
_RUNNING = threading.RLock()


class _Package(ModuleType):
    """A package that has been found. Its modules are imported one by one; anything else that is asked of it runs it."""

    def __getattr__(self, name: str) -> Any:
        with put_off(DRAWING):
            if importlib.util.find_spec(f"{self.__name__}.{name}") is not None:
                return importlib.import_module(f"{self.__name__}.{name}")
            self._run()
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> list[str]:
        self._run()
        return list(super().__dir__())

    def _run(self) -> None:
        """Run the package's own code, once."""
        with _RUNNING:
            if type(self) is _Package and not vars(self).get("_under_way"):
                self.__dict__["_under_way"] = True  # the package may ask itself while it runs
                try:
                    self.__spec__.loader.exec_module(self)  # pyright: ignore[reportOptionalMemberAccess]
                    self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
                finally:
                    del self.__dict__["_under_way"]


class _NotYet(importlib.abc.Loader):
    """Makes a package and leaves running it to the first who needs that."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self.loader
        module.__class__ = _Package


class _PutOff:
    """Finds some modules and leaves them unloaded until something of them is asked for."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            apart = fullname in PACKAGES
            spec.loader = _NotYet(spec.loader) if apart else importlib.util.LazyLoader(spec.loader)
        return spec


@contextlib.contextmanager
def put_off(*names: str) -> Iterator[None]:
    """Within, an import of one of these modules binds it and runs nothing of it yet.

    A module of `PACKAGES` lets its own modules be imported without it; the others are Python's own lazy modules, which
    need nothing of the code that imports them. A module that has been loaded before stays as it is, and one that is not
    installed is missing as ever.
    """
    finder = _PutOff(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


with put_off(*PACKAGES):
    importlib.import_module("gymnax.environments")
    importlib.import_module("gymnasium")
