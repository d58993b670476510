"""The processes of a cluster as children of a test: started with their settings, watched by their probes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]

START_S: Final = 180.0
"""Limit of a start: torch takes four seconds to import on an idle machine."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Serving:
    """One process, which may be started again with the same settings and ports."""

    def __init__(self, kind: str, folder: Path, settings: Mapping[str, str]) -> None:
        """Take what is set beside the port of its metrics; nothing is started yet."""
        self.kind = kind
        self.metrics_port = free_port()
        self.log = folder / f"{kind}.log"
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FORETUNE_")},
            **settings,
            "FORETUNE_METRICS_PORT": str(self.metrics_port),
        }
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True, before: str = "") -> None:
        """Start it, after the statements `before`; return once it is ready, unless told not to wait."""
        code = f"{before}\nfrom foretune.__main__ import main\nmain()"
        command = [sys.executable, "-c", code, self.kind]
        with self.log.open("a") as log:
            self.child = subprocess.Popen(
                command, cwd=ROOT, env=self.environ, stdout=log, stderr=log
            )
        if ready:
            until(self.ready, f"the {self.kind} is ready", limit_s=START_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child that was started last."""
        assert self.child is not None
        return self.child

    def get(self, path: str) -> httpx.Response:
        """Ask the port of metrics and probes."""
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        return httpx.get(url, trust_env=False, timeout=60)

    def ready(self) -> bool:
        """Whether its readiness probe says so; fails when it has ended."""
        code = self.process.poll()
        assert code is None, f"the {self.kind} ended with {code}:\n{self.text()[-6000:]}"
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait(60)

    def terminate(self, *, within_s: float) -> int:
        """End it with SIGTERM; return its exit code."""
        self.process.terminate()
        return self.process.wait(within_s)

    @contextlib.contextmanager
    def ended(self) -> Iterator[Serving]:
        """Make sure that it is gone after the block."""
        try:
            yield self
        finally:
            if self.child is not None:
                self.kill()
