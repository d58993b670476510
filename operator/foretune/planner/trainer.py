"""What the built-in trainer says of a trial that can't run, told in the words of the manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from foretune.contract import ExitCode
from foretune.errors import Problem

if TYPE_CHECKING:
    from foretune.domain.job import Builtin

SAYS: Final = frozenset(
    int(code) for code in (ExitCode.BAD_CONFIG, ExitCode.BAD_EXTRA, ExitCode.DATA_UNREACHABLE)
)
"""Exit codes whose last line says what is wrong with the workload."""

_FIELD: Final = re.compile(r"(workload|params)\.(extras\.[\w.-]+|[\w-]+): (.*)", re.DOTALL)
_PLACES: Final = {"workload": "spec.trial.builtin", "params": "spec.space"}


def problem(line: str, workload: Builtin, *, reading: bool) -> Problem:
    """Return the field of the manifest that a line of the trainer is about, and what is wrong with it.

    A line that names no field is about the data if they were being read: about their folder if there is
    one, else about the data set's name.
    """
    said, folder = line.removeprefix("foretune_trainer: "), workload.data_path
    if (match := _FIELD.fullmatch(said)) is not None:
        return Problem(f"{_PLACES[match[1]]}.{match[2]}", match[3])
    if folder is not None and (reading or said.startswith(folder)):
        return Problem("spec.trial.builtin.path", said)
    return Problem("spec.trial.builtin.dataset" if reading else "", said)
