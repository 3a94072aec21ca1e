"""Where a result comes from: versions, device, commit. Also where compiled programs are kept between runs."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import tomllib
from pathlib import Path

from ad_jax.files import JsonObject


def version() -> str:
    """Return the version of ad_jax: the installed one, or in a clone that is not installed the one that its project
    states.
    """
    try:
        return importlib.metadata.version("ad_jax")
    except importlib.metadata.PackageNotFoundError:
        try:
            project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
            return project["version"] if project["name"].replace("-", "_") == "ad_jax" else "unknown"
        except (OSError, ValueError, KeyError):
            return "unknown"


def collect() -> JsonObject:
    """Plain data for `environment.json` and `results.json`."""
    import jax

    devices = jax.devices()
    return {
        "ad_jax": version(),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "gymnax", "orbax-checkpoint")},
        "platform": platform.platform(),
        "processor": processor(),
        "cpu_cores": os.cpu_count(),
        "device": f"{devices[0].device_kind} x{len(devices)}",
        **({"processes": jax.process_count()} if jax.process_count() > 1 else {}),
    }


def commit() -> str | None:
    """Return the commit of ad_jax's source tree, with `+` if it has changes; None outside of one."""

    def git(*arguments: str) -> str:
        done = subprocess.run(("git", *arguments), capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        if not (top / "ad_jax" / "process" / Path(__file__).name).is_file():
            return None  # somebody else's repository, in which ad_jax is only used
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """Return the CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def use_compilation_cache() -> Path:
    """Keep compiled programs on disk, under `$AD_JAX_CACHE` or the user's cache directory; returns where.

    Leaves a directory that was set before alone.

    Compiled CPU code fits the features of one processor, so each kind of processor has its own folder.
    """
    import jax

    if held := jax.config.values["jax_compilation_cache_dir"]:
        return Path(held)
    base = os.environ.get("AD_JAX_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ad_jax"
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.machine()
    folder = Path(base) / "xla" / hashlib.sha256((processor() + flags).encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
