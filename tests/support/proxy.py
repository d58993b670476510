"""A TCP proxy whose network a test can break: connections that are cut, and connections that say nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy:
    """Forwards connections from a port of its own to a server, while it is told to."""

    def __init__(self, host: str, port: int) -> None:
        """Forward to this server."""
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._refuses = False
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and every new one, until `heal`."""
        with self._lock:
            self._refuses = True
            broken, self._open = self._open, set()
        for connection in broken:
            _close(connection)

    def stall(self) -> None:
        """Forward nothing more, and close nothing: what a firewall does that forgot a connection."""
        self._flows.clear()

    def heal(self) -> None:
        """Forward again."""
        self._refuses = False
        self._flows.set()

    def close(self) -> None:
        """End."""
        _close(self._listener)
        self.cut()
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, timeout=30)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        with self._lock:
            self._open -= {source, sink}
        _close(source)
        _close(sink)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    """Yield a proxy to a server; it ends with the block."""
    made = Proxy(host, port)
    try:
        yield made
    finally:
        made.close()
