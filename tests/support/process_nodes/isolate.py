"""The agent as PID 1 of a PID namespace: whatever ends it ends all processes that it started, their children too."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from . import kernel


def isolate() -> None:
    """Goes on in a child that has new PID and mount namespaces; this process passes signals on and ends as the child does."""
    sys.stdout.flush()
    kernel.unshare(kernel.NEWPID | kernel.NEWNS)
    child = os.fork()
    if child:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: os.kill(child, number))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(128 - code if code < 0 else code)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.mount("none", "/", flags=kernel.REC | kernel.PRIVATE)
    kernel.mount("proc", "/proc", "proc")


async def reap(every: float = 5) -> None:
    """Orphans of the containers come to PID 1: collects those that were already dead one round ago (ours are collected at once)."""
    before = set()
    while True:
        dead = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):  # noqa: ASYNC240 - /proc is in memory
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state == "Z" and parent == str(os.getpid()):
                dead.add(int(stat.parent.name))
        for pid in dead & before:
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        before = dead - before
        await asyncio.sleep(every)
