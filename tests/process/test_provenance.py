"""A clone that is not installed works, too."""

import importlib.metadata
import pathlib
import subprocess
import sys
import tomllib

from ad_jax.process import provenance

ROOT = pathlib.Path(provenance.__file__).parents[2]
# Python as it is where nobody has installed this package.
NOT_INSTALLED = """
import importlib.metadata, sys
found = importlib.metadata.version
def version(name):
    if name == "ad_jax":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
from ad_jax.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_command_line_works_where_the_package_is_not_installed(tmp_path):
    command = [sys.executable, "-c", NOT_INSTALLED, "collect", "dark_room", "--scale", "smoke", "tasks.used=1"]
    done = subprocess.run(
        [*command, "--dir", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/histories/manifest.json").exists()


def test_without_what_it_needs_it_says_so_in_one_sentence(tmp_path):
    code = (
        "import sys; sys.modules['jax'] = None\nfrom ad_jax.__main__ import main\nsys.exit(main(['show', 'dark_room']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ad-jax: jax is not installed for")
    assert len(done.stderr.splitlines()) == 1


def test_the_version_is_the_projects_or_unknown(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "ad_jax" / "process" / "provenance.py"))
    assert provenance.version() == "unknown"
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "ad_jax"\nversion = "7.8.9"\n')
    assert tomllib.loads(project.read_text())["project"]["version"] == provenance.version()
    project.write_text('[project]\nname = "somebody-elses"\nversion = "7.8.9"\n')
    assert provenance.version() == "unknown"
