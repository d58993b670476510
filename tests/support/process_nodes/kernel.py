"""System calls that the standard library lacks (or has only since Python 3.12)."""

import _signal
import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWPID, NEWNET = 0x20000, 0x4000000, 0x20000000, 0x40000000
RDONLY, REMOUNT, BIND, REC, PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def call(name, *args):
    if getattr(LIBC, name)(*args) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags):
    call("unshare", flags)


def setns(descriptor, kind):
    call("setns", descriptor, kind)


def sethostname(name):
    call("sethostname", name.encode(), len(name.encode()))


def prctl(option, value):
    call(
        "prctl",
        option,
        ctypes.c_ulong(value),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )


def mount(source, target, kind=None, flags=0, options=None):
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


def default_signals():
    """Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so in the program it becomes."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
