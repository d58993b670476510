"""HTTP servers that misbehave on purpose: slow, silent, refusing, talking nonsense."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Batch = list[dict[str, Any]]

ACCEPTED: dict[str, Any] = {"ack": 0, "action": "continue", "reason": None, "interval": None}


@dataclass(frozen=True)
class Reply:
    """What a server answers."""

    status: int = 200
    body: Any = field(default_factory=lambda: ACCEPTED)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Server:
    """A server and what it was sent."""

    url: str
    answer: Callable[[Batch], Reply]
    batches: list[Batch] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    @property
    def seqs(self) -> list[int]:
        """Return the numbers of all reports, as they came."""
        return [report["seq"] for batch in self.batches for report in batch]


@contextlib.contextmanager
def scripted(
    answer: Callable[[Batch], Reply], *, certificate: Path | None = None
) -> Iterator[Server]:
    """Serve answers that a function of the reports decides; with TLS if there is a certificate (and key)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            batch = json.loads(raw)
            served.batches.append(batch)
            served.tokens.append(self.headers["Authorization"])
            reply = served.answer(batch)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(OSError):  # the client may be gone by now
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    served = Server(f"{scheme}://127.0.0.1:{httpd.server_address[1]}", answer)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield the address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Yield an address that refuses connections: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
