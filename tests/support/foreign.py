"""An environment of other people: the frameworks of the tests' environment, and nothing of Foretune."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = Path(__file__).parents[1] / "data" / "programs"
"""Programs that are tuned as they stand."""

OURS: Final = "foretune"
"""Start, after underscores, of whatever the installation of this project has put there."""


def foreign_site(folder: Path) -> Path:
    """Make `folder` a folder of packages for PYTHONPATH, of links to those that are installed here."""
    folder.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        # Files .pth are not read from PYTHONPATH; that of an editable installation names our sources.
        ours = path.name.lstrip("_").startswith(OURS)
        if not ours and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def needs(*packages: str) -> None:
    """Skip a test where the environment lacks one of these packages."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def python() -> str:
    """Return this Python outside its environment, where no package of the environment is found."""
    return str(getattr(sys, "_base_executable", sys.executable))
