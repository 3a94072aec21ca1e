"""The line at the foot of a terminal that shows how far a stage is; what is printed meanwhile appears above it."""

import atexit
import os
import sys
from typing import Any

from ad_jax.process import distributed

_bar: Any = None  # rich's, while one is shown; another process, or another stage of this one, has none


def is_ours() -> bool:
    """Whether a person looks at what this process prints."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and distributed.is_first()


def draw(stage: str, done: int, total: int, text: str) -> None:
    """Show `done` of `total` as a bar, and `text` beside it."""
    global _bar
    if _bar is None:
        from rich import progress  # a tenth of a second, for those who look

        columns = (progress.TextColumn("{task.description:9}", markup=False), progress.BarColumn())
        told = progress.TextColumn("{task.fields[told]}", markup=False)
        _bar = progress.Progress(*columns, told, auto_refresh=False, transient=True)
        _bar.add_task(stage, told=text, completed=done, total=total)
        _bar.start()
        _bar.console.show_cursor()  # a process that is killed would leave the terminal without
        atexit.register(clear)
    _bar.update(_bar.task_ids[0], description=stage, completed=done, total=total, told=text, refresh=True)


def clear() -> None:
    """Take the bar away."""
    global _bar
    if _bar is not None:
        _bar.stop()
        _bar = None
        atexit.unregister(clear)
