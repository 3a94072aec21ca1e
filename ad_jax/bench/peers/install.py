"""A peer's own environment: made once, kept in a cache directory, its packages pinned by a file of this folder.

Packages come by pip as it is configured; a repository that is no package is cloned at a pinned commit.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ad_jax.bench.peers.known import Peer
from ad_jax.process.metrics import log

HERE = Path(__file__).parent
LONGEST = 1800.0  # seconds that one command may take


class MissingError(Exception):
    """A peer that cannot be installed here; the message says why, in one line."""


def cache() -> Path:
    """Return the directory of all environments: `AD_JAX_PEERS`, or `ad_jax/peers` in the user's cache directory."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AD_JAX_PEERS") or Path(user) / "ad_jax" / "peers")


def installed(peer: Peer) -> tuple[Path, Path | None]:
    """Return a peer's Python and the folder of its checkout, installing first what is not there yet.

    Raises:
        MissingError: if that cannot be done.
    """
    pins = HERE / f"{peer.environment}.txt"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache() / f"{peer.environment}-{digest}"
    checkout = _cloned(*peer.checkout) if peer.checkout else None  # the quicker of the two to be refused
    if not (folder / "finished").exists():
        log(f"installing {peer.environment} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        _run("no environment", [sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run("not installed", [*pip, "--requirement", str(pins)])
        (folder / "finished").touch()
    return folder / "bin" / "python", checkout


def _cloned(address: str, commit: str) -> Path:
    folder = cache() / f"{address.rsplit('/', 1)[-1]}-{commit[:12]}"
    if not (folder / "finished").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        git = ["git", "-C", str(folder)]
        _run("not cloned", [*git, "init", "--quiet"])
        _run("not cloned", [*git, "fetch", "--quiet", "--depth", "1", address, commit])
        _run("not cloned", [*git, "checkout", "--quiet", "FETCH_HEAD"])
        (folder / "finished").touch()
    return folder


def _run(failing: str, command: list[str]) -> None:
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    quiet.pop("PYTHONPATH", None)  # what is there is not what this environment holds
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{failing}: {error}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        said = [line for line in lines if line.lower().startswith(("error", "fatal"))] or lines or ["no word"]
        raise MissingError(f"{failing}: {said[0]}")
