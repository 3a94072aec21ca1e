"""Learning histories in a bucket: an S3 server on loopback, and a network that cuts, delays and damages."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import chex
import history_helpers
import jax
import pytest
from helpers import GRID, mesh_of, numbered_histories
from history_helpers import KILLED, assert_same, collect, files, manifest, refused, stored
from object_server import (
    BUCKET,
    SECRETS,
    Proxy,
    cut_answer,
    cut_request,
    flip_answer,
    hold,
    late,
    refuse,
    s3_server,
    shorten_answer,
)

from ad_jax.history import access, replay
from ad_jax.history.info import info
from ad_jax.history.replay import RotationConfig
from ad_jax.history.store import open_store, verify
from ad_jax.history.streaming import Rotation

pytest.importorskip("moto", reason="moto is not installed: pip install 'ad_jax[dev]'")

SILENCE = 4  # seconds; TensorStore reads it at a process's first request, so no test of this file can have another
LIMIT = 60.0  # seconds after which a test calls a call hung


@pytest.fixture(scope="module", autouse=True)
def server():
    """Yield the port of the server, which the environment names; retries come quickly."""
    with pytest.MonkeyPatch.context() as patch, s3_server() as port:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")  # a listing comes in pages
        patch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(SILENCE))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}/")
        patch.setattr(access, "RETRIES", {"max_retries": 8, "initial_delay": "20ms", "max_delay": "50ms"})
        yield port


@pytest.fixture
def url(request) -> str:
    """Return a place of its own for each test; the space is on purpose."""
    return f"s3://{BUCKET}/histories of/{request.node.name}"


@pytest.fixture(scope="module")
def finished(server) -> str:
    """Return a finished collection, for tests that only read."""
    url = f"s3://{BUCKET}/finished"
    collect(url, manifest())
    return url


@pytest.fixture
def proxy(server, monkeypatch):
    """Yield what follows goes to the server through this."""
    with Proxy(server) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.server_address[1]}")
        yield relay
        relay.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("histories") / "master"
    collect(path, manifest())
    return files(path)


def objects(url: str) -> dict[str, bytes]:
    store = access.connect(url)
    reads = {key: store.read(key) for key in access.list_keys(store)}
    return {key: read.result().value for key, read in reads.items()}


def in_time(call):
    started = time.monotonic()
    try:
        return call()
    finally:
        assert time.monotonic() - started < LIMIT


def asked(proxy: Proxy, times: int) -> int:
    """How often the fault was met, once it is so often or time is up: on a loaded machine the proxy reads some late."""
    started = time.monotonic()
    while sum(proxy.met.values()) < times and time.monotonic() - started < LIMIT:
        time.sleep(0.05)
    return sum(proxy.met.values())


# The same as a directory.


def test_a_bucket_holds_what_a_directory_holds(url, master):
    collect(url, manifest(), [2, 0])
    refused(lambda: open_store(url), "chunks 1 of 3", url)
    collect(url, manifest())
    assert_same(open_store(url).read(), manifest())
    assert open_store(url).verify() == verify(url) == []
    assert objects(url) == master
    assert info(url).replace(open_store(url).url, "x").splitlines()[1:] == info(f"{url}/").splitlines()[1:]
    refused(lambda: collect(url, manifest(steps=13)), "another manifest", "steps (12 there, 13 here)")
    assert objects(url) == master


def test_a_killed_writer_is_resumed_to_the_same_bytes(url, master):
    command = [sys.executable, "-c", KILLED, history_helpers.__file__, url, "kill"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert "arrays/action/c/2/0" in objects(url)
    refused(lambda: open_store(url), "chunks 1, 2 of 3 are not in the ledger")
    assert_same(open_store(url, allow_partial=True).read(), manifest(), [0])
    collect(url, manifest())
    assert objects(url) == master


def test_what_is_damaged_or_missing_in_the_bucket_is_named(url, master):
    collect(url, manifest())
    store = access.connect(url)
    for name in ("manifest.json", "ledger/000001.json", "arrays/reward/zarr.json", "arrays/reward/c/1/0"):
        raw = master[name]
        for damaged in (raw[:9] + bytes([raw[9] ^ 4]) + raw[10:], raw[: len(raw) // 2], b"", None):
            store.write(name, damaged).result()
            named = "chunks 1" if (damaged, name) == (None, "ledger/000001.json") else name
            refused(lambda: open_store(url).read(), named)
        store.write(name, raw).result()
    assert verify(url) == []


def test_a_bucket_that_is_not_there_is_named():
    refused(lambda: open_store("s3://no-such-bucket/x"), "s3://no-such-bucket/x/")
    refused(lambda: collect("s3://no-such-bucket/x", manifest()), "s3://no-such-bucket/x/", "NoSuchBucket")
    refused(lambda: open_store("s3://no such bucket/x"), "s3://no such bucket/x", "Expected a directory")


def test_endpoint_region_and_credentials_come_from_the_environment(monkeypatch):
    spec = access.connect(f"s3://{BUCKET}/a b%20c").spec(retain_context=True).to_json()
    assert spec["endpoint"] == os.environ["AWS_ENDPOINT_URL"].rstrip("/")
    assert (spec["aws_region"], spec["path"], spec["aws_credentials"]) == (
        "us-east-1",
        "a b c/",
        {"type": "environment"},
    )
    monkeypatch.setenv("AWS_REGION", "")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    spec = access.connect(f"s3://{BUCKET}/").spec().to_json()
    assert (spec["endpoint"], spec["aws_region"]) == ("http://127.0.0.1:1", "eu-west-3")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert access.connect(f"s3://{BUCKET}/x").url == f"s3://{BUCKET}/x/"


# A network that fails for a while: nothing is noticed but the time it takes.


PASSING = {
    "busy": (refuse(503), 3),
    "broken": (refuse(500), 3),
    "cut answers": (cut_answer, 2),
    "cut requests": (cut_request, 2),
    "late": (late(0.3), 1),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "late" else k for k in PASSING])
def test_faults_that_pass_change_nothing(url, proxy, master, kind):
    proxy.fault, proxy.times = PASSING[kind]
    in_time(lambda: collect(url, manifest()))
    assert {method for method, _ in proxy.met} >= {"GET", "PUT"}
    assert max(proxy.met.values()) == proxy.times
    proxy.met.clear()
    assert_same(in_time(lambda: open_store(url).read()), manifest())
    assert sum(proxy.met.values()) >= proxy.times * len(master)
    proxy.clear()
    assert objects(url) == master


def test_a_server_that_stalls_is_asked_again(finished, proxy):
    proxy.fault, proxy.wanted = hold, lambda method, path: path.endswith("/arrays/reward/c/1/0")
    assert_same(in_time(lambda: open_store(finished).read()), manifest())
    assert sum(proxy.met.values()) == 1


@pytest.mark.slow
def test_histories_take_turns_from_a_bucket_as_from_a_directory(url, proxy, tmp_path):
    """Every object is late once, and cut once: residents are the same, and what was late is counted as waited for."""
    whole = numbered_histories(20, 12)
    config = replay.Config(segment=4, batch=8, groups=4, rotation=RotationConfig(8, parts=2, every=1))
    near, far = stored(tmp_path / "near", whole, 4), stored(url, whole, 4)
    faults = itertools.cycle([late(0.2), cut_answer])
    proxy.fault, proxy.times = lambda *request: next(faults)(*request), 2
    far = open_store(url)
    with Rotation(near, GRID, config, mesh_of(), 0) as here, Rotation(far, GRID, config, mesh_of(), 0) as there:
        for step in (0, 1, 2, 3, 4, 2):
            chex.assert_trees_all_equal(*map(jax.device_get, (here.at(step), there.at(step))))
        assert there.facts()["swaps_waited"] > 0
    assert max(proxy.met.values()) == 2


# A network that goes on failing: an error that names the file, within the stated time.


LASTING = {"busy": refuse(503), "broken": refuse(500), "cut answers": cut_answer, "cut requests": cut_request}
NAMES = ["manifest.json", "ledger/000001.json", "arrays/reward/zarr.json", "arrays/reward/c/1/0"]


@pytest.fixture
def two_retries(monkeypatch):
    monkeypatch.setattr(access, "RETRIES", {"max_retries": 2, "initial_delay": "20ms"})


@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("name", NAMES)
def test_faults_that_last_are_errors_that_name_the_file(finished, proxy, two_retries, kind, name):
    proxy.fault, proxy.times = LASTING[kind], 1000
    proxy.wanted = lambda method, path: path.endswith(f"/{name}")
    refused(lambda: in_time(lambda: open_store(finished).read()), name)
    assert asked(proxy, 3) == 3  # the first time, and two retries
    if name == NAMES[-1]:
        assert name in in_time(lambda: verify(finished))[0]


@pytest.mark.parametrize("kind", LASTING)
def test_a_write_that_cannot_be_done_keeps_what_was_done(url, proxy, master, two_retries, kind):
    proxy.fault, proxy.times = LASTING[kind], 1000
    proxy.wanted = lambda method, path: method == "PUT" and path.endswith("/arrays/reward/c/1/0")
    refused(lambda: in_time(lambda: collect(url, manifest())), "writing arrays/reward/c/1/0")
    proxy.clear()
    assert_same(open_store(url, allow_partial=True).read(), manifest(), [0])
    collect(url, manifest())
    assert objects(url) == master


@pytest.mark.parametrize("kind", LASTING)
def test_a_listing_that_fails_is_an_error_and_no_empty_collection(finished, proxy, two_retries, kind):
    proxy.fault, proxy.times = LASTING[kind], 1000
    proxy.wanted = lambda method, path: path in (f"/{BUCKET}", f"/{BUCKET}/")
    refused(lambda: in_time(lambda: open_store(finished)), "listing", finished)
    refused(lambda: in_time(lambda: collect(finished, manifest(steps=13))), "listing", finished)
    assert all(method == "GET" for method, _ in proxy.met)


def test_a_server_that_falls_silent_is_an_error_in_time(finished, proxy, monkeypatch):
    proxy.fault, proxy.times = hold, 1000
    monkeypatch.setattr(access, "RETRIES", {"max_retries": 1})
    refused(lambda: in_time(lambda: open_store(finished)), "reading manifest.json")


@pytest.mark.parametrize("fault", [flip_answer, shorten_answer])
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_damaged_on_its_way_is_never_read(finished, proxy, master, every, fault):
    """A file of each kind, or every file, every time that it is read: an error with its name."""
    for name in master if every else NAMES:
        proxy.fault, proxy.times = fault, 1000
        proxy.wanted = lambda method, path, name=name: method == "GET" and path.endswith(f"/{name}")
        refused(lambda: open_store(finished).read(), name)
        assert proxy.met


def test_the_stated_time_is_that_of_the_settings(monkeypatch):
    """The docstring and docs/reliability.md say: within 6 minutes."""
    waits, wait = 0.0, 1.0
    for _ in range(access.RETRIES["max_retries"]):
        waits, wait = waits + wait, min(2 * wait, 16.0)
    silence = int(access.STALLED["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"])
    assert waits + (access.RETRIES["max_retries"] + 1) * silence <= 360
