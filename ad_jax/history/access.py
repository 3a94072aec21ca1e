"""Where learning histories lie: a directory or a `gs://`, `s3://` or `memory://` URL, and how long one waits for it.

In: a URL, and for `s3://` the environment variables that other S3 clients read too. Out: a TensorStore key-value store;
whatever fails in it, a `HistoryError` that says what was being done.

    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL      an S3 server other than Amazon's
    AWS_REGION, AWS_DEFAULT_REGION             its region (us-east-1); Amazon's own buckets are asked for theirs
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   credentials; without them the profile, then the machine's role

A server that answers with errors is asked 8 times in about a minute; one that takes a request and falls silent, 8 times
for 30 seconds. So whatever happens there, a request ends within 6 minutes: in an answer, or in an error.
"""

import contextlib
import os
from collections.abc import Iterator

import tensorstore as ts

from ad_jax import files
from ad_jax.errors import AdJaxError, HistoryError
from ad_jax.files import Json, JsonObject

RETRIES = {
    "max_retries": 8,
    "initial_delay": "1s",
    "max_delay": "16s",
}  # TensorStore's own are 32, a quarter of an hour
# TensorStore waits for ever on a server that accepts a request and says no more, unless these are set. They are read
# once, at a process's first request.
STALLED = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "256"}

CONTEXT = ts.Context()  # one for the process: connections and thread limits are shared between collections


@contextlib.contextmanager
def named(what: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever fails inside into a HistoryError that says what was being done."""
    try:
        yield
    except AdJaxError:
        raise
    except Exception as error:  # TensorStore maps its status codes to several built-in exceptions
        # The list of a message's key=value details and source locations helps nobody.
        text = str(error).split(" [source locations=")[0] or repr(error)
        full = ("No space left", "RESOURCE_EXHAUSTED", "os_error_code='28'", "Disk quota exceeded", "File too large")
        if any(sign in text for sign in full):
            remedy = "The disk is full (or its quota). Finished chunks are kept: free some space and run collect again."
        raise HistoryError(f"{what} failed: {text}. {remedy}".strip()) from error


def connect(url: str | os.PathLike) -> ts.KvStore:
    """Return the key-value store of a directory, or of a `file://`, `gs://`, `s3://` or `memory://` URL."""
    url = os.fspath(url)
    spec: Json = url if url.endswith("/") else url + "/"
    with named(f"opening {url!r}", "Expected a directory, or a gs:// or s3:// URL."):
        if "://" not in url:
            path = os.path.abspath(os.path.expanduser(url))
            files.check_histories(path)
            spec = {"driver": "file", "path": os.path.join(path, "")}
        elif url.startswith(("gs://", "s3://")):
            for name, value in STALLED.items():
                os.environ.setdefault(name, value)
            spec = ts.KvStore.Spec(spec).to_json() | (
                _s3() if url.startswith("s3") else {"gcs_request_retries": RETRIES}
            )
        return ts.KvStore.open(spec, context=CONTEXT).result()


def _s3() -> JsonObject:
    """Return what the environment says of the S3 server, as members of TensorStore's spec."""

    def read(*names):
        return next((os.environ[name] for name in names if os.environ.get(name)), None)

    spec: JsonObject = {"s3_request_retries": RETRIES}
    if endpoint := read("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        spec["endpoint"] = endpoint.rstrip("/")
        spec["aws_region"] = read("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"
    if read("AWS_ACCESS_KEY_ID"):  # the default chain would ask the machine's role, and wait for it where there is none
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def place(store: ts.KvStore) -> str:
    """Where a store is, for messages. TensorStore has no URL for an S3 server other than Amazon's."""
    try:
        return store.url
    except NotImplementedError:
        spec = store.spec().to_json()
        return f"s3://{spec['bucket']}/{spec.get('path', '')} at {spec['endpoint']}"


def list_keys(store: ts.KvStore) -> list[str]:
    """Every file name of the collection, sorted."""
    with named(f"listing {place(store)}"):
        return sorted(key.decode(errors="replace") for key in store.list().result())
