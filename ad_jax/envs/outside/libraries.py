"""The libraries whose environments have an adapter: where each comes from, and whether it is here. Imports none.

`tested` is the newest version that the adapters' tests ran with, beside the pinned JAX (`make test-adapters`).
"""

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from typing import NamedTuple

from ad_jax.errors import ConfigError


class Library(NamedTuple):
    """A library of environments.

    Attributes:
        extra: what brings it, `pip install 'ad_jax[extra]'`; None where it cannot live beside the pinned JAX.
        package: its name among Python's packages.
        module: what is imported.
        tested: a version that works.
        alone: why it cannot be installed beside, if it cannot.
    """

    extra: str | None
    package: str
    module: str
    tested: str
    alone: str = ""


LIBRARIES = (
    Library("xland", "xminigrid", "xminigrid", "0.9.3"),
    Library("navix", "navix", "navix", "0.7.4"),
    Library("craftax", "craftax", "craftax", "1.6.1"),
    Library("jumanji", "jumanji", "jumanji", "1.1.2"),
    Library("brax", "brax", "brax", "0.14.2"),
    Library("pgx", "pgx", "pgx", "2.6.0"),
    Library("playground", "playground", "mujoco_playground", "0.2.0"),
    Library(None, "kinetix-env", "kinetix", "3.0.2", "wants jax <= 0.9.0, and ad_jax jax >= 0.10"),
)


def named(extra: str | None) -> Library:
    """Return the library that an extra brings."""
    return next(library for library in LIBRARIES if library.extra == extra)


def version(library: Library) -> str | None:
    """Return the installed version, or None."""
    try:
        return importlib.metadata.version(library.package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def needed(library: Library) -> Iterator[None]:
    """Within, a missing library is a ConfigError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        lacking = library.package if missing == library.module else f"{missing}, which {library.package} needs,"
        raise ConfigError(
            f"{lacking} is not installed for {sys.executable}; pip install 'ad_jax[{library.extra}]' brings it"
        ) from error


def lines() -> list[str]:
    """Return a line for each library: installed or not, in which version, and how to have it."""
    told = []
    for library in LIBRARIES:
        found = version(library)
        if library.alone:
            state = f"cannot live beside the pinned jax: {library.package} {library.tested} {library.alone}"
        elif found is None:
            state = f"not installed; pip install 'ad_jax[{library.extra}]'"
        else:
            state = found + ("" if found == library.tested else f" (tested with {library.tested})")
        told.append(f"  {library.package:12} {state}")
    return told
