"""The commands of docs/reliability.md select tests that exist, so that no promise is checked by nothing."""

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


def test_the_page_has_commands():
    assert len(commands()) > 25
    assert selects("a and not b", "xax")
    assert not selects("sigterm or b", "xax")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_selects_tests(words):
    names = [
        name
        for file in words
        if file.startswith("tests/")
        for name in re.findall(r"^def (test_\w+)\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    expression = words[words.index("-k") + 1] if "-k" in words else "test"
    assert [name for name in names if selects(expression, name)], expression
