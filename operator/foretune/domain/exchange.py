"""Tasks that were tuned elsewhere, on their way into the history, and those of the history on their way out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from foretune.domain.job import Objective
from foretune.domain.space import Params, Space
from foretune.domain.trial import EndReason, TrialState

if TYPE_CHECKING:
    from foretune.domain.history import JobRecord

UID_PREFIX: Final = "import-"
"""Start of the uid of every imported job: no object of a cluster has one like it."""

REASON: Final = "Imported"
"""`reason` of an imported job, whose phase is Complete."""

PROPOSER: Final = "import"
"""`proposer` of an imported trial that names none, and carrier of its reports."""

KEY: Final = "row"
"""Entry of a proposal's detail: by which row an imported trial is known again."""


def is_imported(job: JobRecord) -> bool:
    """Whether a job was tuned elsewhere: no operator and no local run may touch it."""
    return job.uid.startswith(UID_PREFIX)


@dataclass(frozen=True, kw_only=True)
class PastTask:
    """A task as a file tells of it."""

    name: str
    objective: Objective
    namespace: str | None = None
    """Where an export had it; None elsewhere."""
    uid: str = ""
    """Uid of the job that was exported; empty elsewhere."""
    space: Space | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    created_at: float | None = None
    sharing: Mapping[str, Any] = field(default_factory=dict)
    """`spec.history` of an export: who may learn from the job."""

    def uid_in(self, namespace: str) -> str:
        """Return the uid under which the task stands in a namespace: the same for each import."""
        if self.uid.startswith(UID_PREFIX) and namespace == self.namespace:
            return self.uid
        goal = self.objective.goal.value
        about = [namespace, self.uid or [self.name, self.objective.metric, goal]]
        return UID_PREFIX + hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class PastTrial:
    """A trial that has ended."""

    key: str
    """Identity within its task: the same for the same row of the next import."""
    line: int
    params: Params
    state: TrialState
    reason: EndReason | None = None
    value: float | None = None
    value_sd: float = 0.0
    message: str = ""
    counts_as_failure: bool = False
    proposer: str = PROPOSER
    curve: tuple[tuple[float, float], ...] = ()
    """(epoch, objective) in rising order."""
    epochs: float = 0.0
    gpu_s: float | None = None
    cpu_s: float | None = None
    seconds: float | None = None
    created_at: float | None = None
    """Unix seconds; None is the time of the import, as below."""
    ended_at: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The row as it stands in the file, for when it is set aside after all."""


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A row that is no trial, and why."""

    task: str
    line: int
    row: Mapping[str, Any]
    reason: str

    def __post_init__(self) -> None:
        """Keep of the row what a database can keep."""
        object.__setattr__(self, "row", storable(dict(self.row)))

    @property
    def digest(self) -> str:
        """What tells it from others of the same import."""
        text = json.dumps([self.task, self.line, self.row, self.reason], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Import:
    """A file, as it is read."""

    source: str
    format: str
    sha256: str
    at: float
    digest: str
    """Of the file, the mapping it is read with, and the namespace it goes to."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of rows."""

    added: int = 0
    known: int = 0
    """In the history already, as they are."""
    set_aside: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(
            added=self.added + other.added,
            known=self.known + other.known,
            set_aside=self.set_aside + other.set_aside,
        )


def storable(cell: Any) -> Any:
    """Return a cell as both databases can keep it: no NUL, no half of a surrogate pair, no bare NaN."""
    if isinstance(cell, str):
        return cell.replace("\0", "\ufffd").encode(errors="replace").decode()
    if isinstance(cell, float) and not math.isfinite(cell):
        return None if math.isnan(cell) else str(cell)
    if isinstance(cell, list):
        return [storable(item) for item in cell]
    if isinstance(cell, dict):
        return {storable(name): storable(item) for name, item in cell.items()}
    return cell
