"""The lock of the light image: what it installs, each file by its hash.

    python -m scripts.locks            checks locks/light.txt against pyproject.toml and constraints.txt
    make locks                         writes it, with uv, which asks the package index for the hashes

Only the light image has one: of torch, PyTorch's index and PyPI have different files of one version.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts.constraints import pinned
from scripts.requirements import requirements

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "locks" / "light.txt"

EXTRAS: Final = ["operator", "tracker"]
"""What is in the light image."""

PYTHON: Final = "3.11"
"""Of the image."""

HEAD: Final = "# All that the light image installs, by hash. Written by `make locks`, checked by `make verify`.\n"

PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)")


def wanted() -> list[str]:
    """Return the requirements of the light image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return requirements(project, EXTRAS)


def locked(text: str) -> dict[str, tuple[str, int]]:
    """Return name -> version and number of hashes."""
    found: dict[str, tuple[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if match := PIN.match(line):
            name = canonicalize_name(match[1])
            found[name] = (match[2], 0)
        if "--hash=sha256:" in line and name:
            version, count = found[name]
            found[name] = (version, count + 1)
    return found


def problems(text: str) -> list[str]:
    """Return a line for each way in which a lock does not fit the project."""
    lock, pins = locked(text), pinned()
    found = [
        f"{name}: needed, but not locked"
        for name in sorted(canonicalize_name(Requirement(one).name) for one in wanted())
        if name not in lock
    ]
    for name, (version, hashes) in sorted(lock.items()):
        if pins.get(name) != version:
            found.append(f"{name}: locked at {version}, constraints.txt says {pins.get(name)}")
        if not hashes:
            found.append(f"{name}: has no hash")
    return found


def write(uv: Path) -> None:
    """Ask the index for the hashes, and write the lock."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "light.in", Path(folder) / "light.txt"
        asked.write_text("\n".join(wanted()) + "\n", encoding="utf-8")
        command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url"]
        command += ["--no-header", "--no-annotate", "--python-version", PYTHON]
        command += ["--constraints", ROOT / "constraints.txt", "--output-file", answer, asked]
        subprocess.run(command, check=True)
        FILE.write_text(HEAD + answer.read_text(encoding="utf-8"), encoding="utf-8")


def main() -> int:
    """Check or write the lock; 1 if it does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="UV", help="write it, with this uv")
    given = parser.parse_args()
    if given.write:
        write(given.write)
    found = problems(FILE.read_text(encoding="utf-8"))
    for line in found:
        print(f"locks/{FILE.name}: {line}", file=sys.stderr)
    if found:
        print("run `make locks`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
