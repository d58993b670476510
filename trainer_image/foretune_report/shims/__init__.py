"""Stand-ins for reporting functions of other tools, so that programs written for them run unchanged.

`ray.train.report`, `kubeflow.katib.report_metrics` and `kubeflow.trainer.update_trainjob_status` report
to Foretune where the real module is not installed; one that is installed is always left alone. They are
opt-in: `foretune-exec --shims -- COMMAND`, or `foretune_report.shims.install()` before the imports.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune_report.reporter import current, number_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

SITE: Final = Path(__file__).parent / "startup"
"""Folder with the `sitecustomize` that installs the stand-ins in a command's Python."""


def ray_report(metrics: Mapping[str, Any], *, checkpoint: Any = None, **_: Any) -> None:
    """Stand in for `ray.train.report`: `training_iteration`, `epoch` or a count is the epoch.

    A checkpoint is the program's own affair; SystemExit ends the program when the tracker asks for it,
    as Ray's scheduler ends a trial.
    """
    del checkpoint
    count = _counted("ray")
    epoch = metrics.get("epoch", metrics.get("training_iteration", count))
    left = {k: v for k, v in metrics.items() if k not in {"epoch", "training_iteration"}}
    if current().report(left, epoch=epoch).should_stop:
        raise SystemExit(0)


def katib_report(metrics: Mapping[str, Any], *_: Any, **__: Any) -> None:
    """Stand in for Katib's `report_metrics`, whose values may be texts."""
    current().report({name: number_in(value) for name, value in metrics.items()})


def trainjob_status(metrics: Mapping[str, Any] | None = None, **_: Any) -> None:
    """Stand in for Kubeflow Trainer's `update_trainjob_status`; the progress is not needed."""
    if metrics:
        current().report({name: number_in(value) for name, value in metrics.items()})


MODULES: Final[dict[str, dict[str, Callable[..., Any]]]] = {
    "ray": {},
    "ray.train": {"report": ray_report},
    "ray.tune": {"report": ray_report},
    "kubeflow": {},
    "kubeflow.katib": {"report_metrics": katib_report},
    "kubeflow.trainer": {"update_trainjob_status": trainjob_status},
}
"""Module: what it holds."""


class Finder:
    """Makes a stand-in of a module that no other finder knows."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004 - the import system's signature
        target: ModuleType | None = None,  # noqa: ARG004
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to make the module, or None."""
        if name not in MODULES:
            return None
        parent = sys.modules.get(name.partition(".")[0])
        if "." in name and not isinstance(getattr(parent, "__loader__", None), Loader):
            return None  # a module of the real package
        return importlib.util.spec_from_loader(name, Loader(), is_package=True)


class Loader(importlib.abc.Loader):
    """Fills a stand-in."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave the making to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the functions into the module."""
        vars(module).update(MODULES[module.__name__])


def install() -> None:
    """Stand in, from now on, for what is not installed."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)  # last: what is really there is found first


def activated(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which every Python that starts calls `install`."""
    here = (str(SITE), *_sources(), environ.get("PYTHONPATH", ""))
    return {**environ, "PYTHONPATH": os.pathsep.join(part for part in here if part)}


def _sources() -> tuple[str, ...]:
    """Return the folders that this package and the contract are imported from."""
    found = (importlib.util.find_spec(name) for name in ("foretune_report", "foretune"))
    return tuple(
        dict.fromkeys(
            str(Path(spec.origin).parents[1]) for spec in found if spec and spec.origin is not None
        )
    )


_counts: dict[str, int] = {}


def _counted(name: str) -> int:
    _counts[name] = _counts.get(name, 0) + 1
    return _counts[name]
