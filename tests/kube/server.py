"""A small API server that answers as a test says: for faults that a real one can't be asked for."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client import Configuration

from foretune.adapters.kube.client import KubeApi


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server does with a request."""

    status: int = 200
    body: Any = field(default_factory=dict)
    """JSON, or bytes as they are."""
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    """`reset`: RST at once; `hang`: no answer; `torn`: half of the body, then RST; `cut`: half, then end."""


def refusal(status: int, message: str, **more: Any) -> Answer:
    """Return an answer as the API server gives them."""
    body = {"kind": "Status", "status": "Failure", "message": message, "code": status, **more}
    return Answer(status=status, body=body)


@dataclass
class Server:
    """The server's address, what it was asked, and what it answers: `answers` first, then `default`."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    default: Callable[[Request], Answer] = lambda request: Answer(body=request.body or {})
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def api(self, **options: Any) -> KubeApi:
        """Return a client of this server."""
        configuration = Configuration(host=self.url)
        configuration.api_key["authorization"] = "secret-token"
        configuration.api_key_prefix["authorization"] = "Bearer"
        return KubeApi(configuration, **{"timeout_s": (2.0, 10.0), **options})

    def next(self, request: Request) -> Answer:
        """Note a request and return what to do with it."""
        with self.lock:
            self.requests.append(request)
            if self.answers:
                return self.answers.pop(0)
        return self.default(request)


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Yield a server on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 1 << 16  # header and body in one packet

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(size)
            parts = urlsplit(self.path)
            request = Request(
                method=self.command,
                path=parts.path,
                query=dict(parse_qsl(parts.query)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=json.loads(text) if text else None,
            )
            answer = server.next(request)
            if answer.fault == "hang":
                server.over.wait(60)
            if answer.fault in ("hang", "reset"):
                self._reset()
                return
            raw = (
                answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            )
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            half = answer.fault in ("torn", "cut")
            self.wfile.write(raw[: len(raw) // 2] if half else raw)
            if answer.fault == "torn":
                self.wfile.flush()
                self._reset()
            elif half:
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def _reset(self) -> None:
            linger = struct.pack("ii", 1, 0)  # closing sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
