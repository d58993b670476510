"""Exit codes of the command line."""

from __future__ import annotations

from typing import Final

COMPLETE: Final = 0
"""The job is complete; the command did what it should."""

FAILED: Final = 1
"""The job has failed; or what the command needs does not answer now."""

BAD_INPUT: Final = 2
"""The user's input can't be used; nothing was started."""

INTERRUPTED: Final = 130
"""Ctrl-C (128 + SIGINT): nothing is lost, the same command goes on."""

TERMINATED: Final = 143
"""SIGTERM (128 + 15), otherwise as `INTERRUPTED`."""

MEANINGS: Final = {
    COMPLETE: "the job is complete; the command did what it should",
    FAILED: "the job has failed; or what is needed (a tracker, a database) does not answer now",
    BAD_INPUT: "the input can't be used, each problem is a line on stderr; nothing was started",
    INTERRUPTED: "Ctrl-C; nothing is lost, and the same command goes on",
    TERMINATED: "SIGTERM, otherwise as 130",
}
"""Exit codes in words, for the reference page."""
