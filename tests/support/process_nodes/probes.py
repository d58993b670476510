"""startupProbe, readinessProbe, livenessProbe and preStop of one running container."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any


ENTER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("enter.py"))]
HTTP = httpx.AsyncClient(
    verify=False, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
)


async def enter(
    spec_file: Any, *args: str, out: Any = subprocess.DEVNULL
) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """Starts enter.py; (process, reader of what it says if its program cannot be started)."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *ENTER,
            str(spec_file),
            str(theirs.fileno()),
            *args,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return process, ours


async def said(ours: socket.socket) -> str:
    """Returns what enter.py had to say: nothing if the program was started."""
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        return (await reader.read()).decode(errors="replace")
    except OSError:
        return ""
    finally:
        writer.close()


class Probes:
    """The probes of one run of a container."""

    def __init__(
        self,
        pod: Any,
        container: dict[str, Any],
        state: dict[str, Any],
        process: Any,
        spec_file: Any,
    ) -> None:
        self.pod, self.container, self.state, self.process, self.spec_file = (
            pod,
            container,
            state,
            process,
            spec_file,
        )

    async def run(self) -> str | None:
        """Keeps started and ready of the container's status; returns the reason why the container must be restarted."""
        c, state = self.container, self.state
        if "startupProbe" in c:
            if not await self.settle(c["startupProbe"]):
                return "startup"
            state["started"] = True
            if "readinessProbe" not in c:
                state["ready"] = True
            self.pod.news.set()
            await self.pod.report()
        watching = [self.readiness(c["readinessProbe"])] if "readinessProbe" in c else []
        if "livenessProbe" in c:
            watching.append(self.liveness(c["livenessProbe"]))
        tasks = [asyncio.ensure_future(w) for w in watching]
        try:
            for done in asyncio.as_completed(tasks):
                return await done
        finally:
            for task in tasks:
                task.cancel()

    async def settle(self, probe: dict[str, Any]) -> bool:
        """Returns the first verdict of a probe."""
        async for up in self.verdicts(probe):
            return up
        raise AssertionError("verdicts never end")

    async def readiness(self, probe: dict[str, Any]) -> None:
        """Keeps the container's ready flag, for ever."""
        async for up in self.verdicts(probe):
            if up != self.state["ready"]:
                self.state["ready"] = up
                await self.pod.report()

    async def liveness(self, probe: dict[str, Any]) -> str:
        """Returns once the probe has failed."""
        async for up in self.verdicts(probe):
            if not up:
                return "liveness"
        raise AssertionError("verdicts never end")

    async def verdicts(self, probe: dict[str, Any]) -> AsyncIterator[bool]:
        """True or False each time that enough probes in a row agree."""
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        good = bad = 0
        while True:
            try:
                ok = await asyncio.wait_for(self.act(probe), probe.get("timeoutSeconds", 1))
            except (TimeoutError, OSError, httpx.HTTPError):
                ok = False
            good, bad = (good + 1, 0) if ok else (0, bad + 1)
            if good >= probe.get("successThreshold", 1):
                yield True
            elif bad >= probe.get("failureThreshold", 3):
                yield False
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def port(self, named: Any) -> int:
        """Returns a port by its number or its name."""
        ports = {
            p["name"]: p["containerPort"] for p in self.container.get("ports") or [] if "name" in p
        }
        return int(ports.get(named, named))

    async def act(self, what: dict[str, Any]) -> bool:
        """Whether a probe's or hook's action succeeds."""
        if "exec" in what:
            return await self.command(what["exec"]["command"]) == 0
        if "sleep" in what:
            await asyncio.sleep(what["sleep"]["seconds"])
            return True
        if get := what.get("httpGet"):
            url = f"{get.get('scheme', 'HTTP').lower()}://{get.get('host') or self.pod.ip}:{self.port(get['port'])}/{get.get('path', '/').lstrip('/')}"
            answer = await HTTP.get(
                url,
                headers=[(h["name"], h["value"]) for h in get.get("httpHeaders") or []],
                timeout=None,
            )
            return 200 <= answer.status_code < 400
        target = what.get("tcpSocket") or what["grpc"]  # of gRPC only the port is tried
        _, writer = await asyncio.open_connection(
            target.get("host") or self.pod.ip, self.port(target["port"])
        )
        writer.close()
        return True

    async def command(self, argv: list[str]) -> int:
        """The exit code of a command in the container; it is killed when this task is cancelled."""
        process, ours = await enter(self.spec_file, str(self.process.pid), *argv)
        ours.close()
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
