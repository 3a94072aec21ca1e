"""The errors a user can cause, and the near-match hint they share. The command line prints them and exits with 2."""

import difflib
from collections.abc import Iterable
from typing import Any


class AdJaxError(ValueError):
    """Bad input: the message states what was expected, what was received, and the remedy."""


class ConfigError(AdJaxError):
    """An experiment, option or override that cannot be meant."""


class HistoryError(AdJaxError):
    """A collection of learning histories that is damaged, unfinished, or not what was asked for."""


class CheckpointError(AdJaxError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint that cannot be read, or holds other bits than were saved."""


class TrainingDiverged(AdJaxError):
    """The loss or a gradient stopped being finite."""


class ReportError(AdJaxError):
    """Results that cannot be reported: names the file, the field, what was expected and what was received."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown name, with near matches, e.g. `unknown("source", "q_lerning", SOURCES)`."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known) or 'none'}."
    return ConfigError(f"unknown {kind} {name!r}. {hint}")


def cannot_write(path: Any, error: OSError) -> ConfigError:
    """The error for a small file of a run that cannot be written."""
    return ConfigError(
        f"{path} cannot be written ({error.strerror or error}). What was finished before is kept: make room, or "
        "allow writing there, and run the same command again"
    )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted names whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        inside = lambda name: f"{where}.{name}" if where else name
        return [d for name in sorted(old | new) for d in differences(old.get(name), new.get(name), inside(name))]
    return [] if old == new else [f"{where} ({old!r} there, {new!r} here)"]
