"""`foretune operator`, `tracker` and `suggestion`: the processes of a cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from foretune.cli.exits import COMPLETE
from foretune.settings import OperatorSettings, SuggestionSettings, TrackerSettings, from_environ

if TYPE_CHECKING:
    import argparse

LOG_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
"""One line a message; the container's runtime adds the rest."""

CHATTY: Final = ("httpx", "httpcore", "kubernetes", "urllib3", "alembic")
"""Loggers that would tell each request at level info."""


def operator(arguments: argparse.Namespace) -> int:
    """Run the operator until it is ended."""
    _log(arguments.log_level)
    settings = from_environ(OperatorSettings)
    from foretune.controller.process import serve_operator  # noqa: PLC0415 - kopf, kubernetes

    serve_operator(settings)
    return COMPLETE


def tracker(arguments: argparse.Namespace) -> int:
    """Run the tracking server until it is ended."""
    _log(arguments.log_level)
    settings = from_environ(TrackerSettings)
    from foretune.app.tracker import serve_tracker  # noqa: PLC0415 - SQLAlchemy, uvicorn

    serve_tracker(settings)
    return COMPLETE


def suggestion(arguments: argparse.Namespace) -> int:
    """Run the suggestion service until it is ended."""
    _log(arguments.log_level)
    settings = from_environ(SuggestionSettings)
    from foretune.app.suggestion import serve_suggestion  # noqa: PLC0415 - torch

    serve_suggestion(settings)
    return COMPLETE


def _log(level: str) -> None:
    """Log to stderr."""
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT, force=True)
    if level != "debug":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
