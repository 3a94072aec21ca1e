"""A disk that is full at each writing point: a clear error, nothing that was written is lost, and it goes on with room.

Two ways to be full: a tmpfs whose n-th file or page does not fit, where one may be mounted, and everywhere a limit on
the size of files (RLIMIT_FSIZE).
"""

import itertools
import json
import os
import pathlib

import pytest
from history_helpers import assert_same, collect, files, manifest, refused
from small_disks import Disk, disk, room_for, small_files

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.experiment import Experiment
from ad_jax.files import read_json, write_json
from ad_jax.history.store import open_store
from ad_jax.models.transformer import Transformer
from ad_jax.run.directory import claim
from ad_jax.sources.q_learning import QLearning

SMALL = {"histories": 3, "chunk_histories": 2, "steps": 400, "task_leaves": {}}
EXPERIMENT = Experiment("x", DarkRoom(), QLearning(), Transformer())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("whole") / "x"
    collect(path, manifest(**SMALL))
    return files(path)


def check_kept(path: pathlib.Path) -> int:
    """Return what is in the ledger is all there, bit for bit; the number of chunks that is."""
    if not (path / "manifest.json").exists():
        return 0
    try:
        opened = open_store(path, allow_partial=True)
    except HistoryError as error:  # only metadata, which the next run writes again, may be missing
        problems = str(error).splitlines()[1:]
        assert all("zarr.json is missing. Delete it and run collect again" in line for line in problems), problems
        return 0
    if opened.chunks:
        assert_same(opened.read(), manifest(**SMALL), opened.chunks)
    assert opened.verify() == []
    return len(opened.chunks)


def fill(path: pathlib.Path, disk_: Disk, whole: dict[str, bytes]) -> tuple[bool, int]:
    """Collect on a small disk, look at what is left, make room, collect again. Whether it was full, and chunks kept."""
    message = None
    try:
        collect(path, manifest(**SMALL))
    except HistoryError as error:
        message = str(error)
    kept = check_kept(path)
    if message is not None:
        assert "disk is full" in message and "Finished chunks are kept" in message
        disk_.grow()
        collect(path, manifest(**SMALL))
    assert {name: raw for name, raw in files(path).items() if not name.endswith(".__lock")} == whole
    return message is not None, kept


@pytest.mark.parametrize("kind", ["files", "pages"])
def test_a_disk_that_is_full_at_any_point_is_named_and_loses_nothing(tmp_path, whole, kind):
    """Room for one file, folder or page more in every try, until all fit."""
    full, kept = 0, set()
    for n in itertools.count(1):
        with disk(tmp_path / f"{kind}{n}", **room_for(n, kind)) as small:
            was_full, chunks = fill(small.path / "x", small, whole)
        kept.add(chunks)
        full += was_full
        if not was_full:
            break
    print(f"{full} disks, full after 0 to {full - 1} {kind}; chunks that were finished by then: {sorted(kept)}")
    assert full >= (len(whole) if kind == "files" else 15)
    assert kept == {0, 1, 2}


def test_a_file_that_is_too_large_is_named(tmp_path, whole):
    """A limit below every size that a file has: the first that is larger fails. Metadata never are: the manifest is."""
    sizes = {name: len(raw) for name, raw in whole.items()}
    named = set()
    for limit in sorted({size - 1 for size in sizes.values()}):
        path = tmp_path / str(limit)
        with small_files(limit):
            message = refused(lambda path=path: collect(path, manifest(**SMALL)), "disk is full", "are kept")
        told = [name for name in sizes if name in message]
        assert told, message
        assert all(sizes[name] > limit for name in told)
        named |= {pathlib.PurePath(told[0]).parts[0], pathlib.PurePath(told[0]).name}
        check_kept(path)
        collect(path, manifest(**SMALL))
        assert files(path) == whole
    assert {"manifest.json", "arrays"} <= named


def test_a_json_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "run" / "stages.json"
    write_json(path, {"collect": {"seconds": 1.0}})
    before = files(tmp_path)
    with small_files(20), pytest.raises(ConfigError, match=r"stages\.json cannot be written \(File too large\)"):
        write_json(path, {"collect": {"seconds": 2.0}})
    assert files(tmp_path) == before
    write_json(path, {"collect": {"seconds": 2.0}})
    assert read_json(path) == {"collect": {"seconds": 2.0}}
    assert sorted(files(tmp_path)) == ["run/stages.json"]


def test_a_run_directory_on_a_full_disk_is_claimed_when_there_is_room(tmp_path):
    folder = tmp_path / "run"
    with small_files(100), pytest.raises(ConfigError, match=r"config\.json cannot be written .* make room"):
        claim(folder, EXPERIMENT)
    assert files(folder) == {}
    claim(folder, EXPERIMENT)
    claim(folder, EXPERIMENT)
    assert Experiment.from_json(read_json(folder / "config.json")) == EXPERIMENT


def test_a_run_directory_on_a_small_disk_is_claimed_when_there_is_room(tmp_path):
    for n in range(1, 5):
        with disk(tmp_path / str(n), size=2**20, nr_inodes=n) as small:
            folder, full = small.path / "run", False
            try:
                claim(folder, EXPERIMENT)
            except ConfigError as error:
                full = "No space left" in str(error)
                small.grow()
            claim(folder, EXPERIMENT)
            assert full == (n < 3)  # the root, the folder and the file make three
            assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(EXPERIMENT.to_json()))
            assert os.listdir(folder) == ["config.json"]
