"""A commit of this repository, laid out in a folder of its own for as long as it is needed."""

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ad_jax.errors import ConfigError

SUITE = "ad_jax/bench/timing.py"  # in every commit that can be measured


def git(folder: Path, *arguments: str) -> bytes:
    """Return what git prints in a folder.

    Raises:
        ConfigError: if git is not installed.
        subprocess.CalledProcessError: if git fails.
    """
    try:
        return subprocess.run(("git", "-C", str(folder), *arguments), capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise ConfigError("--against needs git, which is not installed; install it") from error


def resolve(commit: str, folder: Path) -> str:
    """Return the whole hash of a commit, a branch or a tag of the repository that `folder` lies in.

    Raises:
        ConfigError: if there is no repository, no such commit, or no throughput suite in it.
    """
    try:
        git(folder, "rev-parse", "--show-toplevel")
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"--against expects to be started in a clone of ad_jax; {folder} is in no git repository. "
            "Start it in a clone that has the commit"
        ) from error
    try:
        found = git(folder, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"--against expects a commit, a tag or a branch of the repository in {folder}; got {commit!r}. "
            "`git log --oneline` lists commits, and `git fetch` brings what is missing"
        ) from error
    whole = found.decode().strip()
    if not git(folder, "ls-tree", "--full-tree", "--name-only", whole, SUITE):
        raise ConfigError(
            f"--against expects a commit with a throughput suite, {SUITE}; {commit} has none. Name a later one: "
            f"`git log --oneline -- {SUITE}` lists some"
        )
    return whole


@contextlib.contextmanager
def laid_out(commit: str, folder: Path) -> Iterator[Path]:
    """Files of a resolved commit in a new folder, which is removed afterwards."""
    top = Path(git(folder, "rev-parse", "--show-toplevel").decode().strip())
    with tempfile.TemporaryDirectory(prefix=f"ad_jax_{commit[:12]}_") as place:
        with tarfile.open(fileobj=io.BytesIO(git(top, "archive", commit))) as archive:
            archive.extractall(place, filter="data")
        yield Path(place)
