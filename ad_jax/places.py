"""Where a user's files go: `~` is expanded, and a place where something would be lost is refused before anything runs.

Orbax 0.12 takes a run directory's own name for a pattern where it gathers what it has written (`[32,32]` is then one
character), and a name that ends in ":" for the beginning of a URL. It says that all went well, and nothing can be read.
TensorStore takes a backslash for a slash, and writes elsewhere.
"""

import os
import re
from pathlib import Path

from ad_jax.errors import ConfigError

LONGEST = 255  # bytes of a name, on every common file system
# What Orbax and TensorStore read in a path that is not there.
LOST = {"[": "a pattern", "*": "a pattern", "?": "a pattern", "\\": "a slash"}


def local(path: str | os.PathLike, option: str = "") -> Path:
    """A path on this machine, with `~` expanded.

    Args:
        option: what was set, for the message, e.g. `--out`.

    Raises:
        ConfigError: for a URL, a name that is too long, or one that is no text.
    """
    text, what = os.fspath(path), option or "the path"
    if re.match(r"[a-z][a-z0-9+.-]+:/", text):
        raise ConfigError(
            f"{what} is a directory on this machine; got {text}. Only histories can be elsewhere: --histories gs://..."
        )
    text = os.path.expanduser(text)
    check_names(text, what)
    return Path(text)


def check_names(text: str, what: str) -> None:
    """Raises ConfigError for a path with a name that no file system takes."""
    try:
        longest = max(map(len, text.encode().split(b"/")))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is no text in UTF-8; got {text!r}. Use another name") from error
    if longest > LONGEST or "\0" in text:
        received = "a zero character" if "\0" in text else f"one of {longest} bytes"
        raise ConfigError(f"{what} expects names of at most {LONGEST} bytes; got {received}. Use a shorter name")


def check_checkpoints(folder: Path) -> None:
    """Raises ConfigError if checkpoints that are written in `folder`, an absolute path, could not be read again."""
    found = {character: meant for character, meant in LOST.items() if character in str(folder)}
    if colon := next((part for part in folder.parts if part.endswith(":")), ""):
        found[colon] = "a URL"
    if found:
        shown = ", ".join(f"{character!r} as {meant}" for character, meant in found.items())
        raise ConfigError(
            f"checkpoints in {folder} could not be read again: the libraries that write them read {shown}. Use "
            "another directory (--dir), or rename that one"
        )


def check_histories(path: str) -> None:
    """Raises ConfigError if histories in `path` would go elsewhere; a URL is another matter."""
    if "://" in path:
        return
    check_names(path, "the histories' directory")
    if "\\" in path:
        raise ConfigError(
            f"histories in {path} would go elsewhere: TensorStore reads '\\' as a slash. Use another directory "
            "(--dir, or --histories)"
        )
