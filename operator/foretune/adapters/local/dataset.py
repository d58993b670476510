"""Whether the built-in trainer can read its data set on this machine, asked of itself before trial 0."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foretune import contract
from foretune.domain.job import Builtin
from foretune.errors import InvalidInputError, InvalidJobError
from foretune.planner.trainer import SAYS, problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foretune.domain.job import JobSpec

SHIPPED: Final = re.compile(r"digits|synthetic:.*")
"""Data sets that are always there."""

MODULE: Final = "foretune_trainer.check"
"""The trainer's own check."""


def to_read(spec: JobSpec) -> str | None:
    """Return the name of the data set to be checked, or None for one that needs no check."""
    workload = spec.trial.workload
    if not isinstance(workload, Builtin):
        return None
    shipped = SHIPPED.fullmatch(workload.dataset) is not None and not workload.extras
    return None if shipped else workload.dataset


def check_dataset(spec: JobSpec, environ: Mapping[str, str]) -> None:
    """Read the job's data set once; on its way it comes into the cache of the trials.

    Raises `InvalidJobError` with the field when the trainer can't read it, `InvalidInputError` when the
    trainer can't be run.
    """
    workload = spec.trial.workload
    assert isinstance(workload, Builtin)
    described = {
        "model": workload.model,
        "dataset": workload.dataset,
        "extras": dict(workload.extras),
        **({"path": workload.data_path} if workload.data_path is not None else {}),
    }
    config = {"version": contract.CONTRACT_VERSION, "params": {}, "workload": described}
    with tempfile.TemporaryDirectory(prefix="foretune-") as folder:
        file = Path(folder) / "trial.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - our own trainer
            [sys.executable, "-m", MODULE, "--config", str(file)],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.splitlines() if line.strip()]
    last = said[-1] if said else f"code {done.returncode}"
    if done.returncode not in SAYS:
        raise InvalidInputError(f"the built-in trainer can't be run on this machine: {last}")
    raise InvalidJobError([problem(last, workload, reading=True)])


__all__ = ["check_dataset", "to_read"]
