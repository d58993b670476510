"""How the two HTTP services are served: uvicorn's settings, signals, and an end that does not hang."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

import uvicorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from starlette.applications import Starlette

GRACE_S: Final = 3
"""Seconds that open requests have to end after SIGTERM."""

KEEP_ALIVE_S: Final = 75
"""Seconds an idle connection is kept: longer than clients keep theirs, so that none sends into it."""

ENDS: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that end a server."""

START_S: Final = 30.0
"""Seconds a server beside the main thread has to start listening."""


def web_config(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    """Return uvicorn's settings for one of our services."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
    )


class ProcessServer(uvicorn.Server):
    """A server that ends with its process's SIGTERM or SIGINT, without raising it once more."""

    def __init__(self, config: uvicorn.Config, *, on_end: Callable[[], None] | None = None) -> None:
        """Serve `config`; `on_end` is called once before open requests are waited for."""
        super().__init__(config)
        self._on_end = on_end

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at `ENDS` while the block runs."""
        before = {kind: signal.signal(kind, self.handle_exit) for kind in ENDS}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the service first: what it computes for nobody need not be waited for."""
        if self._on_end is not None:
            self._on_end()
        await super().shutdown(sockets)


class ThreadServer(uvicorn.Server):
    """A server beside the main thread: signals are the main thread's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    def wait_started(self, thread: threading.Thread) -> None:
        """Return once it listens; raises `RuntimeError` when its thread ended instead."""
        end = time.monotonic() + START_S
        while not self.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("the local tracker did not start")
            time.sleep(0.01)


def leave() -> None:
    """End the process with code 0 if threads are left that could hold it for as long as they compute.

    Whoever calls this has nothing to lose: what was answered is stored, what was not is asked again.
    """
    if threading.active_count() > 1:
        logging.shutdown()
        os._exit(0)
