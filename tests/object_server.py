"""An S3 server on loopback (moto), and a proxy before it that does to requests what networks do."""

import collections
import contextlib
import http.client
import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

BUCKET = "bucket"
SECRETS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Yield the port of a new S3 server with one empty bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        connection.close()
        yield port
    finally:
        server.stop()


Fault = Callable[["Relay", "http.client.HTTPConnection"], None]


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on, or meets them with a fault.

    Attributes:
        fault: what is done to a request; None passes all of them on.
        wanted: the requests that meet it, by method and path.
        times: how often a request to one path meets it, before it gets through.
        met: how often each (method, path) met it.
    """

    daemon_threads = True
    request_queue_size = 128  # more than TensorStore opens at once; a connection beyond it would wait for seconds

    def __init__(self, upstream: int):
        super().__init__(("127.0.0.1", 0), Relay)
        self.upstream = upstream
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.fault: Fault | None = None
        self.wanted: Callable[[str, str], bool] = lambda method, path: True
        self.times = 1
        self.met = collections.Counter()

    def pick(self, method: str, path: str) -> Fault | None:
        with self.lock:
            if self.fault is None or not self.wanted(method, path) or self.met[method, path] >= self.times:
                return None
            self.met[method, path] += 1
            return self.fault

    def handle_error(self, request, client_address) -> None:
        """Return a client that gave up is no news."""


class Relay(http.server.BaseHTTPRequestHandler):
    """One connection of the proxy; one request each."""

    protocol_version = "HTTP/1.1"
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def relay(self) -> None:
        self.close_connection = True
        fault = self.server.pick(self.command, self.path.split("?")[0])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)) as upstream:
            (fault or pass_on)(self, upstream)

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = relay  # noqa: N815, names that http.server calls

    def log_message(self, format: str, *args) -> None:
        """Print nothing: tests count the requests."""

    def ask(self, upstream: http.client.HTTPConnection) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the server's answer to the request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        body = answer.read()
        dropped = ("connection", "transfer-encoding", "content-length", "date", "server")
        return answer.status, [pair for pair in answer.getheaders() if pair[0].lower() not in dropped], body

    def give(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int | None = None) -> None:
        """Answer; `length` is what the header claims."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def pass_on(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    relay.give(*relay.ask(upstream))


def refuse(status: int) -> Fault:
    """Return the server says that it is busy, or broken, and does nothing."""

    def fault(relay: Relay, upstream: http.client.HTTPConnection) -> None:
        relay.rfile.read(int(relay.headers.get("Content-Length") or 0))
        relay.give(status, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>")

    return fault


def cut_answer(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    """Drop the connection in the middle of the answer, when the server has done it."""
    status, headers, body = relay.ask(upstream)
    relay.give(status, headers, body[: len(body) // 2], length=len(body) + 1)


def cut_request(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    """Drop the connection while the request is being sent; the server never hears of it."""
    relay.rfile.read(int(relay.headers.get("Content-Length") or 0) // 2)
    relay.connection.shutdown(socket.SHUT_RDWR)


def late(seconds: float) -> Fault:
    """Return the answer comes, after a while."""

    def fault(relay: Relay, upstream: http.client.HTTPConnection) -> None:
        answer = relay.ask(upstream)
        time.sleep(seconds)
        relay.give(*answer)

    return fault


def flip_answer(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    """One bit of the body is another."""
    status, headers, body = relay.ask(upstream)
    middle = len(body) // 2
    relay.give(status, headers, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body)


def shorten_answer(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    """Cut the body, with a header that agrees."""
    status, headers, body = relay.ask(upstream)
    relay.give(status, headers, body[: len(body) // 2])


def hold(relay: Relay, upstream: http.client.HTTPConnection) -> None:
    """Take the request, and answer nothing for longer than anybody should wait."""
    relay.rfile.read(int(relay.headers.get("Content-Length") or 0))
    time.sleep(30)
