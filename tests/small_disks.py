"""Disks that are soon full: a tmpfs of so many files or pages, and a limit on the size of files (RLIMIT_FSIZE)."""

import contextlib
import pathlib
import resource
import subprocess

import pytest


class Disk:
    """A tmpfs of so many files and pages; `grow` makes room."""

    def __init__(self, path: pathlib.Path, **options: int):
        self.path = path
        self._mount("", **options)

    def _mount(self, first: str, **options: int) -> None:
        told = first + ",".join(f"{name}={value}" for name, value in options.items())
        subprocess.run(["mount", "-t", "tmpfs", "-o", told, "none", self.path], check=True, capture_output=True)

    def grow(self) -> None:
        self._mount("remount,", size=2**24, nr_inodes=10_000)


@contextlib.contextmanager
def disk(path: pathlib.Path, **options: int):
    """Yield a small disk at a new folder; skips the test where none may be mounted."""
    path.mkdir()
    try:
        small = Disk(path, **options)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs may be mounted here; the tests with RLIMIT_FSIZE run")
    try:
        yield small
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def small_files(size: int):
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def room_for(count: int, kind: str) -> dict[str, int]:
    """Options of a `disk` with room for so many "files" (folders count), or "pages" of files."""
    return {"size": 2**24, "nr_inodes": count} if kind == "files" else {"size": 4096 * count, "nr_inodes": 10_000}
