"""`foretune sdk copy`: the reporting SDK as a folder for another environment's PYTHONPATH."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foretune.cli.exits import COMPLETE
from foretune.errors import InvalidInputError
from foretune_report import bundle

if TYPE_CHECKING:
    import argparse


def copy(arguments: argparse.Namespace) -> int:
    """Make the folder; raises `InvalidInputError` where it can't be written."""
    try:
        bundle.copy(Path(arguments.folder))
    except OSError as error:
        raise InvalidInputError(f"{arguments.folder}: {error.strerror or error}") from error
    return COMPLETE
