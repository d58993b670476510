"""Ends of a trial that have an exit code of the contract.

TrainerError
├── BadConfigError          64: the parameters or the workload can't be run
├── BadExtraError           78: an unknown or ill-typed extra
├── DataUnreachableError    74: the data set could not be read; says what was tried
├── UnwritableError         74: by hand: what --out should keep could not be written
├── DivergedError           79: the loss was not finite twice in a row
├── OutOfMemoryError        80: the device ran out of memory
└── PreemptedError          75: asked to leave; a checkpoint was written
"""

from __future__ import annotations

from typing import ClassVar

from foretune.contract import ExitCode


class TrainerError(Exception):
    """Base of the trainer's own errors; the message is for the person who reads the log."""

    code: ClassVar[ExitCode] = ExitCode.BUG


class BadConfigError(TrainerError):
    """The parameters or the workload can't be run; retrying can't help."""

    code = ExitCode.BAD_CONFIG


class BadExtraError(TrainerError):
    """An unknown or ill-typed extra parameter; retrying can't help."""

    code = ExitCode.BAD_EXTRA


class DataUnreachableError(TrainerError):
    """The data set could not be read now; another attempt may."""

    code = ExitCode.DATA_UNREACHABLE


class UnwritableError(TrainerError):
    """A run by hand is done, but its folder lacks some of what it should hold."""

    code = ExitCode.DATA_UNREACHABLE


class DivergedError(TrainerError):
    """The training or validation loss was not finite in two epochs in a row."""

    code = ExitCode.DIVERGED


class OutOfMemoryError(TrainerError):
    """The device ran out of memory."""

    code = ExitCode.OUT_OF_MEMORY


class PreemptedError(TrainerError):
    """The trial was asked to leave and wrote a checkpoint, from which the next attempt goes on."""

    code = ExitCode.PREEMPTED
