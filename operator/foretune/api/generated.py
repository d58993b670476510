"""Files of the repository that are written from code; `make crds` writes them, `make verify` checks them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def run(arguments: Sequence[str], *, module: str, path: Path, text: str) -> int:
    """Write `text` to `path`, or with `--check` say on stderr when it is not what is there.

    `module` is what `python -m` runs to write it. Returns the exit code.
    """
    if "--check" in arguments:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return 0
        print(f"{path} is stale: run python -m {module}", file=sys.stderr)  # noqa: T201 - a command line tool
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return 0
