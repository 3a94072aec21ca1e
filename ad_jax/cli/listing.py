"""What can be named on the command line, one line each: the first sentence of its own text. Imports no plug-in."""

import ast
import importlib.metadata
import importlib.util
import inspect
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ad_jax import experiment
from ad_jax.envs import FAMILIES, OUTSIDE
from ad_jax.envs.outside import libraries
from ad_jax.methods import METHODS
from ad_jax.models import MODELS
from ad_jax.policies import POLICIES
from ad_jax.process import provenance
from ad_jax.sources import SOURCES


def lines(kind: str | None = None) -> list[str]:
    """Return the names of a kind, or of all kinds under a heading each, with what they are."""
    kinds: dict[str, tuple[str, Callable[[], list[tuple[str, str]]]]] = {
        "experiments": ("Experiments (ad-jax run NAME --scale SCALE)", _experiments),
        "families": ("Task families (env=NAME, or env=my_package.my_module:MyEnv)", _families),
        "outside": (
            "Task families of other libraries (ad-jax info says which are installed)",
            lambda: _plugins(OUTSIDE),
        ),
        "sources": ("Sources (source=NAME, or source=my_package.my_module:MySource)", lambda: _plugins(SOURCES)),
        "models": ("Backbones (model=NAME, or model=my_package.my_module:MyModel)", lambda: _plugins(MODELS)),
        "methods": ("Methods (method=NAME, or method=my_package.my_module:MyMethod)", lambda: _plugins(METHODS)),
        "policies": (
            "Scripted policies, which are not trained (model=NAME, or model=my_package.my_module:MyPolicy)",
            lambda: _plugins(POLICIES),
        ),
    }
    text = []
    for name, (heading, rows) in kinds.items():
        if kind in (None, name):
            found = rows()
            width = max(len(row[0]) for row in found)
            text += [heading, *(f"  {row[0]:{width}}  {row[1]}" for row in found), ""]
    return text[:-1]


def installed() -> list[str]:
    """Return versions: of this package, of what it stands on, and of the libraries whose environments it adapts."""
    ours = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "gymnax")]
    ours = [f"ad_jax {provenance.version()}", *ours]
    heading = "Environments of other libraries (docs/envs/outside.md)"
    return [", ".join([f"Python {platform.python_version()}", *ours]), "", heading, *libraries.lines()]


def _experiments() -> list[tuple[str, str]]:
    rows = []
    for name in experiment.known():
        path = experiment.find(name)
        about = f"{_sentence(ast.get_docstring(_parsed(path)))} [{', '.join(experiment.scales(path)) or 'cpu'}]"
        rows.append((name, about))
    return rows


def _families() -> list[tuple[str, str]]:
    rows = _plugins(FAMILIES)
    try:
        import gymnax

        ids = f"env.env_id is one of: {', '.join(gymnax.registered_envs)}"
    except ImportError as error:
        ids = f"needs gymnax: {error}"
    return [(name, f"{about} {ids}" if name == "gymnax" else about) for name, about in rows]


def _plugins(registry: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, _about(where)) for name, where in registry.items()]


def _about(where: str) -> str:
    """Return the first sentence of a plug-in's docstring, or of its module's where that is about options alone."""
    module, _, attribute = where.partition(":")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return ""
    tree = _parsed(Path(found.origin))
    own = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == attribute]
    text = ast.get_docstring(own[0]) if own else None
    return _sentence(ast.get_docstring(tree) if text is None or text.startswith("Options of") else text)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])


def _sentence(text: str | None) -> str:
    """Up to the first full stop, colon or empty line, on one line."""
    first = inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ")
    return f"{re.split(r'(?<!et al)[.] ', first)[0].rstrip('.')}."
