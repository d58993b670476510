"""Run a program in an unpacked image as a restricted pod would: no daemon, no OCI runtime.

User 65532, no capability, no new privileges, read-only root, an empty /tmp, no network, PID and IPC
namespaces of its own. Needs root.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USER: Final = 65532

DEVICES: Final = ("null", "zero", "full", "random", "urandom")

RDONLY, NOSUID, REMOUNT, BIND = 1, 2, 32, 4096
CAPBSET_DROP, NO_NEW_PRIVS = 24, 38
LAST_CAPABILITY: Final = 63


def run(
    root: Path, argv: Sequence[str], *, env: Mapping[str, str], limit_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Return how `argv` ended in the image unpacked at `root`; exit code 1 if it could not start."""
    names = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    spec = json.dumps({"root": str(root), "argv": list(argv), "env": dict(env)})
    return subprocess.run(
        ["unshare", *names, sys.executable, "-I", "-S", __file__, spec],
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


def _enter(root: str) -> None:
    """Make `root` the root of this mount namespace's view, read-only, and give up all rights."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        args = (source.encode(), target.encode(), kind.encode())
        if libc.mount(*args, ctypes.c_ulong(flags), options.encode()):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), target)

    def control(option: int, value: int) -> int:
        rest = [ctypes.c_ulong(0)] * 3
        return int(libc.prctl(option, ctypes.c_ulong(value), *rest))

    mount(root, root, "", BIND)
    mount("proc", f"{root}/proc", "proc", NOSUID)
    mount("tmpfs", f"{root}/tmp", "tmpfs", NOSUID, "mode=1777")
    mount("tmpfs", f"{root}/dev", "tmpfs", NOSUID, "mode=755")
    for name in DEVICES:
        Path(root, "dev", name).touch()
        mount(f"/dev/{name}", f"{root}/dev/{name}", "", BIND)
    mount("none", root, "", REMOUNT | BIND | RDONLY)
    os.chroot(root)
    os.chdir("/")
    for capability in range(LAST_CAPABILITY + 1):
        control(CAPBSET_DROP, capability)  # fails behind the last one that the kernel knows
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    if control(NO_NEW_PRIVS, 1):
        raise OSError("no_new_privs was refused")


def _main(spec: dict[str, Any]) -> None:
    _enter(spec["root"])
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        sys.exit(f"{spec['argv'][0]}: {error.strerror}")


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
