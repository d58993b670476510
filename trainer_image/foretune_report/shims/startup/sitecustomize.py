# ruff: noqa: INP001 - a folder on PYTHONPATH, not a package
"""Installs the stand-ins in a Python that starts, then lets the environment's own `sitecustomize` run."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from foretune_report import shims

shims.install()

_here = str(Path(__file__).parent)
_others = [path for path in sys.path if path != _here]
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
