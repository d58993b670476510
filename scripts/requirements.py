"""The dependencies of some extras, a line each, without the project itself.

    python requirements.py pyproject.toml operator tracker

For image builds, which install the dependencies in a layer of their own before the code is copied.
Standard library only.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Return the requirements of a `[project]` table with these extras, sorted, each once.

    Raises `KeyError` for an extra that is not there.
    """
    optional = project["optional-dependencies"]
    found = {*project["dependencies"]}
    for extra in extras:
        found |= {*optional[extra]}
    return sorted(found)


def main() -> None:
    """Print the requirements."""
    file, *extras = sys.argv[1:]
    project = tomllib.loads(Path(file).read_text(encoding="utf-8"))["project"]
    print(*requirements(project, extras), sep="\n")


if __name__ == "__main__":
    main()
