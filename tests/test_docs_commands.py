"""The commands of docs/reliability.md select tests that exist, so that no promise is checked by nothing."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def commands() -> list[list[str]]:
    """Every pytest command of the page's table, in words; `...` stands for the files of the one before."""
    found, files = [], []
    for line in (ROOT / "docs/reliability.md").read_text().splitlines():
        for text in re.findall(r"`((?:pytest|\.\.\.) [^`]+)`", line if line.startswith("|") else ""):
            words = shlex.split(text)
            named = [word for word in words if word.startswith("tests/")]
            files = named or files
            found.append(words if named else [*words, *files])
    return found


def selects(expression: str, name: str) -> bool:
    """Whether pytest's `-k` takes a test of that name, for `and`, `or` and `not`."""
    return eval(re.sub(r"\b(?!and\b|or\b|not\b)(\w+)", lambda word: str(word[0] in name), expression))


def slow_by_name(file: str) -> dict[str, bool]:
    """Return a file's tests, and whether all of their cases are slow: a test, or some cases of it, can be marked so."""
    tree = ast.parse((ROOT / file).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    whole = any("pytestmark" in ast.unparse(node) and "slow" in ast.unparse(node) for node in tree.body)
    return {f.name: whole or "pytest.mark.slow" in map(ast.unparse, f.decorator_list) for f in functions}


def test_the_page_has_commands():
    assert len(commands()) > 25
    assert selects("a and not b", "xax")
    assert not selects("sigterm or b", "xax")
    assert set(slow_by_name("tests/process/test_processes.py").values()) == {True, False}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_selects_tests(words):
    found = {name: slow for file in words if file.startswith("tests/") for name, slow in slow_by_name(file).items()}
    expression = words[words.index("-k") + 1] if "-k" in words else "test"
    matched = {name: slow for name, slow in found.items() if selects(expression, name)}
    assert matched, expression
    assert "-m" in words or not all(matched.values()), "all of them are slow: add -m slow"
