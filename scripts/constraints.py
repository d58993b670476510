"""The pins of constraints.txt: every distribution that our extras bring, as installed here.

    python -m scripts.constraints            checks that this environment and the file agree
    python -m scripts.constraints --write    writes the file from this environment

A local version (`2.13.0+cpu`) is pinned without its local part, so that one file serves PyTorch's
CUDA and its CPU wheels. Names that only one of the two brings do no harm: a constraint asks for
nothing by itself.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE: Final = Path(__file__).parent.parent / "constraints.txt"

PROJECT: Final = "foretune"

EXTRAS: Final = ("operator", "tracker", "suggestion", "trainer", "local", "dev")

HEAD: Final = (
    "# Every distribution that the extras of foretune bring, for Python 3.11 to 3.13.\n"
    "# Written by `python -m scripts.constraints --write`, checked by `make verify`.\n"
)


def installed() -> dict[str, str]:
    """Return name -> public version of all that the extras bring, without the project itself."""
    found: dict[str, str] = {}
    todo = [(PROJECT, extra) for extra in EXTRAS]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            # Wanted by a marker that we evaluate as pip does, so it should be here.
            found[name] = "missing"
            continue
        found[name] = dist.version.partition("+")[0]
        for text in dist.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            for wanted in ("", *requirement.extras):
                key = (canonicalize_name(requirement.name), wanted)
                if key not in seen:
                    seen.add(key)
                    todo.append(key)
    del found[PROJECT]
    return found


def pinned() -> dict[str, str]:
    """Return name -> version of the file."""
    lines = (line.partition("#")[0].strip() for line in FILE.read_text().splitlines())
    pairs = (line.partition("==")[::2] for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def problems() -> list[str]:
    """Return one line for each difference between the environment and the file."""
    pins, found = pinned(), []
    for name, version in sorted(installed().items()):
        if name not in pins:
            found.append(f"{name}: {version} is installed, constraints.txt does not pin it")
        elif pins[name] != version:
            found.append(f"{name}: {version} is installed, constraints.txt pins {pins[name]}")
    return found


def main() -> int:
    """Check or write the file; 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the file from this environment")
    if parser.parse_args().write:
        pins = installed()
        FILE.write_text(HEAD + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
        print(f"{FILE.name}: {len(pins)} pins")
        return 0
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("run `python -m scripts.constraints --write`, or `make init`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
