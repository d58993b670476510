"""`foretune data warm`: data sets, read once for all trials that share a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foretune.cli.exits import COMPLETE
from foretune.contract import ExitCode
from foretune.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    import argparse


def warm(arguments: argparse.Namespace) -> int:
    """Write the copies; raises `InvalidInputError`, or `UnavailableError` where data can't be had now."""
    from foretune_trainer.errors import TrainerError  # noqa: PLC0415 - the trainer is an extra
    from foretune_trainer.warm import warm as write  # noqa: PLC0415 - as above

    try:
        print(write(arguments.dataset, arguments.data, Path(arguments.cache)))
    except TrainerError as error:
        kind = UnavailableError if error.code is ExitCode.DATA_UNREACHABLE else InvalidInputError
        raise kind(str(error)) from error
    except OSError as error:
        raise InvalidInputError(f"{arguments.cache}: {error.strerror or error}") from error
    return COMPLETE
