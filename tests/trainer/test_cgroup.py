"""Control groups: trees as containers, desktops and old kernels have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foretune_trainer import cgroup

CPU_STAT = """usage_usec 12345678
user_usec 10000000
system_usec 2345678
nr_periods 120
nr_throttled 30
throttled_usec 1500000
nr_bursts 0
burst_usec 0
"""

ROOTLESS = "22 1 0:21 / /proc rw - proc proc rw\nmalformed but no group - tmpfs tmpfs rw\n"


class Machine:
    """A made `/proc` and what is mounted, below a folder."""

    def __init__(self, folder: Path, groups: str, mounts: str) -> None:
        self.root, self.proc = folder, folder / "proc"
        self.write("proc/self/cgroup", groups)
        self.write("proc/self/mountinfo", ROOTLESS + mounts)

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def process(self, pid: int, parent: int, name: str = "python") -> None:
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) S {parent} {pid} {pid} 0 -1 4194560 1 2\n")

    def own(self, pid: int = 7) -> cgroup.Cgroup | None:
        return cgroup.own(self.proc, self.root, pid)


def container(folder: Path, members: str = "1\n20\n") -> Machine:
    """A container with version 2 and a namespace of its own: the usual pod of today."""
    mounts = "32 31 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n"
    made = Machine(folder, "0::/\n", mounts)
    made.process(1, 0)
    made.process(20, 1)
    made.write("sys/fs/cgroup/cgroup.procs", members)
    made.write("sys/fs/cgroup/cpu.stat", CPU_STAT)
    made.write("sys/fs/cgroup/memory.peak", "734003200\n")
    return made


def test_container(tmp_path: Path) -> None:
    """Seconds with their parts, the throttled time, and the peak of memory."""
    group = container(tmp_path).own(1)
    assert group is not None
    assert group.version == 2
    assert group.cpu() == cgroup.Cpu(12.345678, 10.0, 2.345678, 1.5)
    assert group.memory_peak() == 734003200


def test_older_kernel(tmp_path: Path) -> None:
    """Before Linux 5.19 there is no memory.peak, and without a limit no throttled time: then they are unknown."""
    made = container(tmp_path)
    (tmp_path / "sys/fs/cgroup/memory.peak").unlink()
    made.write("sys/fs/cgroup/cpu.stat", "\n".join(CPU_STAT.splitlines()[:3]))
    group = made.own(1)
    assert group is not None
    assert group.memory_peak() is None
    assert group.cpu() == cgroup.Cpu(12.345678, 10.0, 2.345678, None)


@pytest.mark.parametrize(
    "text", ["", "usage_usec 1\n", "usage_usec x\nuser_usec 1\nsystem_usec 1\n"]
)
def test_odd_file(tmp_path: Path, text: str) -> None:
    """Numbers that aren't there are unknown, never zero."""
    made = container(tmp_path)
    made.write("sys/fs/cgroup/cpu.stat", text)
    made.write("sys/fs/cgroup/memory.peak", "max\n")
    group = made.own(1)
    assert group is not None
    assert group.cpu() is None
    assert group.memory_peak() is None


def test_vanishes(tmp_path: Path) -> None:
    """A file that is gone later is unknown, too."""
    group = container(tmp_path).own(1)
    assert group is not None
    (tmp_path / "sys/fs/cgroup/cpu.stat").unlink()
    assert group.cpu() is None


def test_other_processes(tmp_path: Path) -> None:
    """A group with a process that does not descend from this one is nobody's alone."""
    made = container(tmp_path, "1\n20\n30\n")
    made.process(30, 1, "a (strange) name")
    assert made.own(1) is not None
    assert made.own(20) is None
    made.process(30, 20)
    made.write("sys/fs/cgroup/cgroup.procs", "20\n30\n")
    assert made.own(20) is not None
    made.write("sys/fs/cgroup/cgroup.procs", "20\n0\n")  # 0: of a namespace we can't see
    assert made.own(20) is None
    made.write("sys/fs/cgroup/cgroup.procs", "20\n99\n")  # ended since
    assert made.own(20) is None


def test_groups_below(tmp_path: Path) -> None:
    """What has groups of its own below counts their processes, which are not listed with it."""
    made = container(tmp_path)
    made.write("sys/fs/cgroup/child/cgroup.procs", "")
    assert made.own(1) is None


def test_desktop(tmp_path: Path) -> None:
    """On a desktop the group is a folder below the mount; a session with other programs is not ours."""
    path = "/user.slice/user-1000.slice/session-2.scope"
    mounts = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    made = Machine(tmp_path, f"0::{path}\n", mounts)
    for pid, parent in ((5, 1), (6, 5), (7, 6)):
        made.process(pid, parent)
    made.write(f"sys/fs/cgroup{path}/cpu.stat", CPU_STAT)
    made.write(f"sys/fs/cgroup{path}/cgroup.procs", "5\n6\n7\n")
    assert made.own(7) is None
    made.write(f"sys/fs/cgroup{path}/cgroup.procs", "7\n")  # as in `systemd-run --scope`
    group = made.own(7)
    assert group is not None
    assert group.cpu() == cgroup.Cpu(12.345678, 10.0, 2.345678, 1.5)


V1_MOUNTS = """\
40 31 0:32 /kubepods/pod1/c1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct
41 31 0:33 /kubepods/pod1/c1 /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
42 31 0:34 /kubepods/pod1/c1 /sys/fs/cgroup/systemd ro,nosuid - cgroup systemd rw,name=systemd
43 31 0:35 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw
"""

V1_GROUPS = """\
11:cpu,cpuacct:/kubepods/pod1/c1
4:memory:/kubepods/pod1/c1
1:name=systemd:/kubepods/pod1/c1
0::/kubepods/pod1/c1
"""


def old_container(folder: Path) -> Machine:
    """A container with version 1, which sees its host's paths; the second version has no controllers."""
    made = Machine(folder, V1_GROUPS, V1_MOUNTS)
    made.process(1, 0)
    for name in ("cpu,cpuacct", "memory"):
        made.write(f"sys/fs/cgroup/{name}/cgroup.procs", "1\n")
    made.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "8000000000\n")
    made.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.stat", "user 600\nsystem 200\n")
    throttled = "nr_periods 10\nnr_throttled 2\nthrottled_time 250000000\n"
    made.write("sys/fs/cgroup/cpu,cpuacct/cpu.stat", throttled)
    made.write("sys/fs/cgroup/memory/memory.max_usage_in_bytes", "524288000\n")
    return made


def test_version_1(tmp_path: Path) -> None:
    """The same figures by version 1's names; user and system divide the exact total."""
    group = old_container(tmp_path).own(1)
    assert group is not None
    assert group.version == 1
    assert group.cpu() == cgroup.Cpu(8.0, 6.0, 2.0, 0.25)
    assert group.memory_peak() == 524288000


def test_version_1_in_parts(tmp_path: Path) -> None:
    """What is missing is unknown, and the rest is still read."""
    made = old_container(tmp_path)
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.stat").unlink()
    (tmp_path / "sys/fs/cgroup/memory/cgroup.procs").unlink()
    group = made.own(1)
    assert group is not None
    assert group.cpu() == cgroup.Cpu(8.0, 6.0, 2.0, None)
    assert group.memory_peak() is None


def test_outside_of_the_mount(tmp_path: Path) -> None:
    """A path that leads out of what is mounted is not followed."""
    made = container(tmp_path)
    made.write("proc/self/cgroup", "0::/../other\n")
    assert made.own(1) is None


def test_no_groups(tmp_path: Path) -> None:
    """A system without control groups, or without /proc."""
    assert Machine(tmp_path, "", "").own(1) is None
    assert cgroup.own(tmp_path / "none", tmp_path, 1) is None


V1 = Path("/sys/fs/cgroup/cpuacct")
V2 = Path("/sys/fs/cgroup")


def _a_real_group() -> Path | None:
    """Make a group in which a process can be alone, where this system lets us."""
    for parent in (V1, V2):
        folder = parent / f"foretune-test-{os.getpid()}"
        if any((parent / name).exists() for name in ("cpuacct.usage", "cpu.stat", "cgroup.procs")):
            try:
                folder.mkdir()
            except OSError:
                continue
            if any((folder / name).exists() for name in ("cpuacct.usage", "cpu.stat")):
                return folder
            folder.rmdir()
    return None


def test_real() -> None:
    """In a real group of the kernel a process that computes for a while finds that while, in itself and a child."""
    folder = _a_real_group()
    if folder is None:
        pytest.skip("control groups: none can be made here")
    text = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from foretune_trainer import cgroup\n"
        "group = cgroup.own()\n"
        "before = group.cpu().total\n"
        "if os.fork():\n"
        "    os.wait()\n"
        "else:\n"
        "    while time.process_time() < 0.3: pass\n"
        "    os._exit(0)\n"
        "print(group.cpu().total - before)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", text, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert 0.2 < float(done.stdout) < 10
    finally:
        folder.rmdir()
