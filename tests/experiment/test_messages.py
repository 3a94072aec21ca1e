"""Every option that a message names exists, as a user would write it on the command line."""

import ast
import dataclasses
import pathlib
import re
import typing

import pytest

import ad_jax
from ad_jax import envs, methods, models, policies, sources
from ad_jax.experiment import Experiment
from ad_jax.experiment.config import dataclass_of
from ad_jax.experiment.plugins import OPAQUE, kind_of
from ad_jax.registry import resolve

PACKAGE = pathlib.Path(ad_jax.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_experiments" not in path.parts)
MAKERS = re.compile(r"Error$|^_?(wrong|damaged|cannot_write)$")
DOTTED = re.compile(r"(?<![\w./])([a-z][a-z0-9_]*)((?:\.[a-z][a-z0-9_]*)+)")


def fields(cls: type, prefix: str) -> set[str]:
    """Dotted names of all fields of nested dataclasses."""
    found = set()
    for name, hint in typing.get_type_hints(cls).items():
        found.add(f"{prefix}{name}")
        nested = dataclass_of(hint)
        if nested is not None and kind_of(hint) is None:
            found |= fields(nested, f"{prefix}{name}.")
    return found


def of_plugins(kind: str, registry: dict[str, str]) -> set[str]:
    """`kind.option` for every option of any of the registered plug-ins."""
    classes = [resolve(kind, name, registry) for name in registry]
    own = {f"{kind}.{field.name}" for cls in classes for field in dataclasses.fields(cls) if field.init}
    nested = [fields(cls, f"{kind}.") for cls in classes if kind == "method"]  # what a trained model is asked for
    return own.union(*nested)


OPTIONS = (
    fields(Experiment, "")
    | of_plugins("env", envs.FAMILIES | envs.OUTSIDE | OPAQUE)
    | of_plugins("source", sources.SOURCES)
    | of_plugins("model", models.MODELS | policies.POLICIES)
    | of_plugins("method", methods.METHODS)
    | {"replay.labels"}  # of experiments of before; what it is now is said
)
SECTIONS = {name.split(".")[0] for name in OPTIONS if "." in name}
PLUGINS = {*envs.FAMILIES, *sources.SOURCES, *models.MODELS, *policies.POLICIES, *methods.METHODS}


def said(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and text of every string in what is raised, or given to what makes an error; a gap for what is filled in."""
    found = []
    for node in ast.walk(tree):
        makes = isinstance(node, ast.Call) and MAKERS.search(ast.unparse(node.func))
        if (isinstance(node, ast.Raise) and node.exc is not None) or makes:
            for part in ast.walk(node):
                if isinstance(part, ast.JoinedStr):
                    text = "".join(str(x.value) if isinstance(x, ast.Constant) else "\0" for x in part.values)
                    found.append((part.lineno, text))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    found.append((part.lineno, part.value))
    return found


def unknown_options(tree: ast.AST) -> list[str]:
    """Return what looks like an option in a message and is none."""
    wrong = []
    for line, text in said(tree):
        for match in DOTTED.finditer(text):
            head, name = match[1], match[0]
            filled_in = text[match.end() : match.end() + 1] in (".", "\0")
            if head in PLUGINS or (head in SECTIONS and name not in OPTIONS and not filled_in):
                wrong.append(f"{line}: {name}")
    return list(dict.fromkeys(wrong))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_options_that_messages_name_exist(path):
    assert unknown_options(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('raise ConfigError("lower collect.chunk_histories")', ["1: collect.chunk_histories"]),
        ('raise ConfigError(f"dqn.capacity must be {x}")', ["1: dqn.capacity"]),
        ('raise HistoryError(f"set replay.rotation.size={x}")', ["1: replay.rotation.size"]),
        ('raise ConfigError(f"collect.{name} must be at least 1; see distill.updates")', []),
    ],
)
def test_a_wrong_option_would_be_found(line, wrong):
    assert unknown_options(ast.parse(line)) == wrong


def test_there_are_messages_that_name_options():
    texts = [text for path in MODULES for _, text in said(ast.parse(path.read_text()))]
    named = {match[0] for text in texts for match in DOTTED.finditer(text)} & OPTIONS
    assert len(named) > 30
    assert "collect.chunk_learners" in OPTIONS
