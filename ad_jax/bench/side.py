"""The live process of one commit's suite, seen from the one that compares two (`worker.py` is the other end)."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from ad_jax.bench import worker
from ad_jax.errors import ConfigError
from ad_jax.files import Json, JsonObject

MODULES = {
    "limits": "limits",
    "collect": "collecting",
    "distill": "distilling",
    "rotation": "rotating",
    "rl2": "reinforcing",
    "evaluate": "evaluating",
    "plan": "diffusing",
    "search": "searching",
    "attention": "attending",
    "torch": "torch_reference",
}


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which Python finds the package in a folder first, and all libraries where it did."""
    path = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


class Side:
    """The suite of a package `ad_jax`, in a process that is alive from entering to leaving.

    Args:
        tree: the folder that the package lies in.
        cache: where compiled programs are kept.
    """

    def __init__(self, tree: Path, cache: Path):
        self.tree = tree
        self.kept = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.errors = tempfile.TemporaryFile("w+")
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self.errors.close()

    def start(self) -> None:
        """Start the process.

        Raises:
            ConfigError: if it does not come up, or imports another package than the one in the folder.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__], env={**environment(self.tree), **self.kept}, cwd=self.tree,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        found = self.answer()
        if found.get("ready") != str((self.tree / "ad_jax").absolute()):
            received = found.get("ready") or found["failed"]
            self.stop()
            raise ConfigError(
                f"expected the suite of {self.tree} to come up with the libraries of {sys.executable}; received: "
                f"{received}. Name a commit whose dependencies are those that are installed"
            )

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def ask(self, stage: str, sizes: JsonObject) -> None:
        """Ask for the rows of a stage; answers follow."""
        if self.process is None:
            self.start()
        self._tell({"module": MODULES[stage], "sizes": sizes})

    def said(self, data: JsonObject) -> JsonObject:
        """Return the answer to a command of `worker.py`."""
        self._tell(data)
        return self.answer()

    def answer(self) -> JsonObject:
        """Wait for one; a process that has died says `{"failed": TEXT}` with the end of its errors."""
        assert self.process is not None and self.process.stdout is not None
        if text := self.process.stdout.readline():
            return json.loads(text)
        status = self.process.wait()
        self.stop()
        self.errors.seek(0)
        last = next((line for line in reversed(self.errors.read().splitlines()) if line.strip()), "no word")
        return {"failed": f"the process ended with {status}: {last}"}

    def _tell(self, data: dict[str, Json]) -> None:
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; the answer will say so
            self.process.stdin.write(json.dumps(data) + "\n")
            self.process.stdin.flush()
