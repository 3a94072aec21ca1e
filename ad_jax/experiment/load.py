"""Where experiments' files lie and how they are read: by name, by folder or by path."""

import ast
import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ad_jax.errors import AdJaxError, ConfigError, told, unknown
from ad_jax.experiment.config import Experiment
from ad_jax.experiment.mixture import Mixture


def load(name_or_path: str, scale: str = "cpu") -> Experiment:
    """Return the experiment of a file, a folder with `config.py`, or a name such as `dark_room`.

    Raises:
        ConfigError: if there is none (near matches are listed), it has no `config(scale)`, or it is a mixture.
    """
    found = load_any(name_or_path, scale)
    if isinstance(found, Mixture):
        raise ConfigError(
            f"{name_or_path} is a mixture of {', '.join(found.members)}, which this cannot take. It may take one "
            "member: load_mixture(...).member(name)"
        )
    return found


def load_mixture(name_or_path: str, scale: str = "cpu") -> Mixture:
    """Return the mixture of a file, a folder or a name such as `many_worlds`; raises as `load`, for an experiment."""
    found = load_any(name_or_path, scale)
    if isinstance(found, Mixture):
        return found
    raise ConfigError(f"{name_or_path} is an experiment with one family, and no mixture. Use load")


def load_any(name_or_path: str, scale: str = "cpu") -> Experiment | Mixture:
    """Return the experiment or the mixture of a file, a folder or a name.

    Raises:
        ConfigError: if there is none (near matches are listed), or it has no `config(scale)`.
    """
    path = find(name_or_path)
    experiment = call(path, "config", scale)
    if not isinstance(experiment, Experiment | Mixture):
        raise ConfigError(f"{path}: config() must return an Experiment or a Mixture; got {type(experiment).__name__}")
    return experiment


def call(path: Path, function: str, scale: str) -> Any:
    """Return what a function of an experiment's file gives for a scale.

    Raises:
        ConfigError: if the file has no such function or no such scale, or cannot be loaded.
    """
    spec = importlib.util.spec_from_file_location(_module(path), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(module):
            spec.loader.exec_module(module)
        make = getattr(module, function, None)
        if callable(make):
            return make(scale=scale)
    except AdJaxError:
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (scale,) and (tables := _tables(path)):
            if scale not in scales(path):
                raise ConfigError(f"{path}: {unknown('scale', scale, scales(path))}") from error
            everywhere = [name for name in scales(path) if all(name in table for table in tables)]
            raise ConfigError(
                f"{path}: {function}() knows no scale {scale!r}, which another function of that file does. All of them "
                f"know {', '.join(everywhere) or 'none'}"
            ) from error
        raise ConfigError(f"{path} cannot be loaded: {told(error)}. With --traceback you see all of it") from error
    kind = {"config": "Experiment", "study": "Study"}[function]
    raise ConfigError(f'{path} has no function `{function}(scale="cpu") -> {kind}`')


def _module(path: Path) -> str:
    """Return the name by which `import` finds a file below the current directory: classes of its own are named after
    it.
    """
    inside = path.relative_to(Path.cwd()).with_suffix("").parts if path.is_relative_to(Path.cwd()) else ("-",)
    return ".".join(inside) if all(map(str.isidentifier, inside)) else f"ad_jax_experiment_{path.parent.name}"


@contextlib.contextmanager
def _importable(module: ModuleType) -> Iterator[None]:
    """Make a module one that was imported, unless one of its name was, or what is done within fails."""
    mine = sys.modules.setdefault(module.__name__, module) is module
    try:
        yield
    except BaseException:
        if mine:
            del sys.modules[module.__name__]
        raise


def scales(path: Path) -> list[str]:
    """Return the scales that an experiment's file states: the words by which it looks up `{"cpu": ..., ...}[scale]`."""
    return list(dict.fromkeys(name for table in _tables(path) for name in table))


def _tables(path: Path) -> list[list[str]]:
    """Return the words of each such table."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict) and ast.unparse(node.slice) == "scale"
    ]


def find(name_or_path: str) -> Path:
    """Return the file that an experiment's name or path means."""
    path = Path(os.path.expanduser(name_or_path))
    if path.suffix == ".py" or path.is_dir():
        path = path / "config.py" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"no experiment file {path}")
        return path.absolute()
    for folder in _folders():
        if (folder / name_or_path / "config.py").is_file():
            return folder / name_or_path / "config.py"
    raise unknown("experiment", name_or_path, known())


def known() -> list[str]:
    """Names of the experiments that come with the package or lie in ./experiments."""
    return sorted({p.parent.name for folder in _folders() if folder.is_dir() for p in folder.glob("*/config.py")})


def _folders() -> list[Path]:
    package = Path(__file__).parents[1]
    return [Path("experiments").absolute(), package / "_experiments", package.parent / "experiments"]


def docstring(name_or_path: str) -> str:
    """Return the claim of an experiment file, without running it."""
    return inspect.cleandoc(ast.get_docstring(ast.parse(find(name_or_path).read_text())) or "")
