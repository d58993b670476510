"""The folder outside the checkout that keeps what is slow to fetch or to build."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache(*parts: str) -> Path:
    """Return a folder of the cache, made if it is not there.

    The cache is FORETUNE_CACHE, else `foretune` in the user's cache folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("FORETUNE_CACHE") or Path(base) / "foretune")
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes: two of them never fetch or build the same thing."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pip_download(requirement: str, into: Path) -> Path:
    """Return the wheel that pip downloads for `requirement`, without its dependencies.

    Raises `subprocess.CalledProcessError` with pip's message in `stderr`.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run(
        [*command, "-d", str(into), requirement], check=True, capture_output=True, text=True
    )
    (wheel,) = into.glob("*.whl")
    return wheel
