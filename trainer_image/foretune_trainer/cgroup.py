"""What a container used, as the kernel's control groups count it: version 2, or 1.

A group counts everybody in it. So one is read only when it holds this process and its children alone, as
that of a trial's container does; a laptop's session, or a container with other programs, says nothing of
one trial.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PROC: Final = Path("/proc")
"""Where the kernel shows processes."""


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of a control group since it was made."""

    total: float
    user: float
    system: float
    throttled: float | None = None
    """Seconds in which it was kept from running by its limit; None where nobody counts them."""


@dataclass(frozen=True)
class Cgroup:
    """The control group of this process."""

    version: int
    cpu_folder: Path | None = None
    memory_folder: Path | None = None
    throttle_folder: Path | None = None
    """Of version 1's controller `cpu`, which counts the throttled time."""

    def cpu(self) -> Cpu | None:
        """Return the CPU seconds so far, or None where they can't be read."""
        if self.cpu_folder is None:
            return None
        try:
            return _cpu_v2(self.cpu_folder) if self.version == 2 else self._cpu_v1(self.cpu_folder)  # noqa: PLR2004
        except (OSError, ValueError, KeyError):
            return None

    def _cpu_v1(self, folder: Path) -> Cpu:
        total = int((folder / "cpuacct.usage").read_text()) / 1e9
        # The two parts are counted in coarse ticks, the total exactly: they only say how it divides.
        parts = _numbers(folder / "cpuacct.stat")
        ticks = parts["user"] + parts["system"]
        user = total * parts["user"] / ticks if ticks else total
        return Cpu(total, user, total - user, self._throttled_v1())

    def _throttled_v1(self) -> float | None:
        if self.throttle_folder is None:
            return None
        try:
            return _numbers(self.throttle_folder / "cpu.stat")["throttled_time"] / 1e9
        except (OSError, ValueError, KeyError):
            return None

    def memory_peak(self) -> int | None:
        """Return the most bytes it ever held, page cache and /dev/shm included; None if nobody counts."""
        if self.memory_folder is None:
            return None
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"  # noqa: PLR2004
        try:
            return int((self.memory_folder / name).read_text())
        except (OSError, ValueError):
            return None


def own(proc: Path = PROC, root: Path = Path("/"), pid: int | None = None) -> Cgroup | None:
    """Return the control group that holds `pid` (default: this process) and its children alone.

    None where there is none, or it holds others too. `root` goes before every path of a mount.
    """
    try:
        folders = _folders(proc, root, os.getpid() if pid is None else pid)
    except (OSError, ValueError):
        return None
    unified = folders.get("")
    if unified is not None and (unified / "cpu.stat").exists():
        return Cgroup(2, unified, unified)
    if folders.keys() & {"cpuacct", "memory"}:
        return Cgroup(1, folders.get("cpuacct"), folders.get("memory"), folders.get("cpu"))
    return None


def _folders(proc: Path, root: Path, me: int) -> dict[str, Path]:
    """Return the folders of the groups of `me` alone by controller; version 2's, which has all, by ""."""
    paths: dict[str, str] = {}
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    folders: dict[str, Path] = {}
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        for name, folder in _mounted(line, paths, root):
            if _alone(folder, proc, me):
                folders.setdefault(name, folder)
    return folders


def _mounted(line: str, paths: Mapping[str, str], root: Path) -> list[tuple[str, Path]]:
    """Return controller and folder of this process's groups below one mount (`proc(5)`, mountinfo)."""
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    if kind not in {"cgroup", "cgroup2"}:
        return []
    _, _, _, top, point = before.split(" ")[:5]
    names = [""] if kind == "cgroup2" else options.split(" ")[-1].split(",")
    found = []
    for name in names:
        # Where a container sees its host's paths, its own group is what is mounted.
        path = PurePosixPath(paths.get(name, "/.."))
        if ".." not in path.parts and path.is_relative_to(top):
            found.append((name, root / point.lstrip("/") / path.relative_to(top)))
    return found


def _alone(folder: Path, proc: Path, me: int) -> bool:
    """Whether the group at `folder` holds process `me` and what descends from it, and nobody else."""
    try:
        members = [int(text) for text in (folder / "cgroup.procs").read_text().split()]
        nested = any(entry.is_dir() for entry in folder.iterdir())
        return not nested and me in members and all(_descends(one, me, proc) for one in members)
    except (OSError, ValueError):
        return False


def _descends(pid: int, ancestor: int, proc: Path) -> bool:
    while pid not in {ancestor, 0, 1}:
        # The name, in brackets, may hold anything.
        pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines `name number`."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number in pairs}


def _cpu_v2(folder: Path) -> Cpu:
    found = _numbers(folder / "cpu.stat")
    throttled = found.get("throttled_usec")
    return Cpu(
        found["usage_usec"] / 1e6,
        found["user_usec"] / 1e6,
        found["system_usec"] / 1e6,
        None if throttled is None else throttled / 1e6,
    )
