"""The errors a user can cause, and the near-match hint they share. The command line prints them and exits with 2."""

import contextlib
import difflib
import os
import site
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

OURS = str(Path(__file__).parent)


class AdJaxError(ValueError):
    """Bad input: the message states what was expected, what was received, and the remedy."""


class ConfigError(AdJaxError):
    """An experiment, option or override that cannot be meant."""


class HistoryError(AdJaxError):
    """A collection of learning histories that is damaged, unfinished, or not what was asked for."""


class CheckpointError(AdJaxError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that cannot be read, or holds other bits than were saved."""


class OtherHistoriesError(HistoryError):
    """Histories that are whole, and not those that this run would collect."""


class ForeignHistoriesError(HistoryError):
    """Histories that somebody else collected and that cannot be imported: names the file, the place and the remedy."""


class OtherCheckpointError(CheckpointError):
    """A checkpoint that is whole, and not one that this run would make."""


class TrainingDivergedError(AdJaxError):
    """The loss or a gradient stopped being finite."""


class ReportError(AdJaxError):
    """Results that cannot be reported: names the file, the field, what was expected and what was received."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an unknown name, with near matches, e.g. `unknown("source", "q_lerning", SOURCES)`."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known) or 'none'}."
    return ConfigError(f"unknown {kind} {name!r}. {hint}")


def cannot_write(path: object, error: OSError) -> ConfigError:
    """Return the error for a small file of a run that cannot be written."""
    return ConfigError(
        f"{path} cannot be written ({error.strerror or error}). What was finished before is kept: make room, or "
        "allow writing there, and run the same command again"
    )


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Dotted names whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):

        def inside(name):
            return f"{where}.{name}" if where else name

        return [d for name in sorted(old | new) for d in differences(old.get(name), new.get(name), inside(name))]
    return [] if old == new else [f"{where} ({old!r} there, {new!r} here)"]


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn what fails in code that is not ours into one line with its place.

    Raises:
        ConfigError: naming `what`, the error, and where in the user's code it came from.
    """
    try:
        yield
    except AdJaxError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} failed: {told(error)}") from error


def told(error: BaseException) -> str:
    """Return an error in one line, with the last line of the user's own code that it passed, if it passed any."""
    text = next(iter(str(error).strip().splitlines()), "")
    where = place_of(error)
    return f"{type(error).__name__}: {text}".rstrip(": ") + (f" ({where})" if where else "")


def place_of(error: BaseException) -> str | None:
    """`file.py:12, in step_env`: the innermost line of code that is neither ours, nor a library's, nor Python's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    theirs = [OURS, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))]
    theirs += [*site.getsitepackages(), site.getusersitepackages()]
    apart = ("<", *(f"{folder}{os.sep}" for folder in theirs))
    found = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(apart)]
    if not found:
        return None
    return f"{found[-1].filename}:{found[-1].lineno}, in {found[-1].name}"


def is_ours(error: BaseException) -> bool:
    """Whether it was raised in this package, and not in what this package called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(f"{OURS}{os.sep}")
