"""System calls that the standard library lacks (or has only since Python 3.12)."""

from __future__ import annotations

import _signal
import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes long to import
    from typing import Any


LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWPID, NEWNET = 0x20000, 0x4000000, 0x20000000, 0x40000000
RDONLY, REMOUNT, BIND, REC, PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def call(name: str, *args: Any) -> None:
    """Calls a function of the C library; raises OSError with its errno."""
    if getattr(LIBC, name)(*args) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves this process (or thread) into new namespaces."""
    call("unshare", flags)


def setns(descriptor: int, kind: int) -> None:
    """Moves this thread into the namespace of a descriptor."""
    call("setns", descriptor, kind)


def sethostname(name: str) -> None:
    """Sets the host name of this UTS namespace."""
    call("sethostname", name.encode(), len(name.encode()))


def prctl(option: int, value: int) -> None:
    """Sets an option of this process."""
    call(
        "prctl",
        option,
        ctypes.c_ulong(value),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None
) -> None:
    """Mounts source at target; raises OSError naming both."""
    try:
        call(
            "mount",
            source.encode(),
            target.encode(),
            kind and kind.encode(),
            ctypes.c_ulong(flags),
            options and options.encode(),
        )
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source} at {target})") from None


def default_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so in the program it becomes."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
