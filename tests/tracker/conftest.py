"""A tracker over a history of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.support.histories import SPEC
from tests.support.suggesters import Scripted, SetClock, by_index

from foretune.adapters.store import SqlHistory
from foretune.api.v1alpha1 import parse
from foretune.ports import Suggestions
from foretune.services.tracker import TrackerService
from foretune.services.tracker.catalogue import Sharing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from foretune.domain.job import Job


def a_tuning_job(uid: str = "job-1", name: str = "demo", **spec: Any) -> Job:
    """Return the job of a manifest; keyword arguments replace parts of its spec."""
    body = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name, "namespace": "team-a", "uid": uid},
        "spec": {**SPEC, **spec},
    }
    return parse(body).to_domain()


@dataclass
class Counts:
    """A meter that can be read."""

    writes: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    proposals: list[tuple[str, str]] = field(default_factory=list)
    trips: int = 0
    outcomes: list[tuple[str, float, float, float]] = field(default_factory=list)
    stops: list[tuple[str, float]] = field(default_factory=list)

    def written(self, result: str) -> None:
        """Count a write."""
        self.writes.append(result)

    def duplicate(self, algorithm: str) -> None:
        """Count a refused suggestion."""
        self.duplicates.append(algorithm)

    def proposed(self, expert: str, prior: str) -> None:
        """Count a proposal."""
        self.proposals.append((expert, prior))

    def came_out(self, model: str, mean: float, sd: float, value: float) -> None:
        """Keep what came of a prediction."""
        self.outcomes.append((model, mean, sd, value))

    def guard_tripped(self) -> None:
        """Count a trip."""
        self.trips += 1

    def stopped(self, rule: str, spared: float) -> None:
        """Count a stopped trial."""
        self.stops.append((rule, spared))


@dataclass
class Bench:
    """A tracker and what it stands on."""

    history: SqlHistory
    clock: SetClock = field(default_factory=SetClock)
    suggestions: Suggestions = field(default_factory=lambda: Scripted(by_index))
    meter: Counts = field(default_factory=Counts)
    sharing: Sharing | None = None

    def service(self) -> TrackerService:
        """Return a tracker as after a restart: all it knows is in the history."""
        return TrackerService(
            history=self.history,
            suggestions=self.suggestions,
            clock=self.clock,
            meter=self.meter,
            sharing=self.sharing,
        )


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqlHistory]:
    """An empty history."""
    opened = SqlHistory(str(tmp_path / "history.db"))
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def bench(history: SqlHistory) -> Bench:
    """A tracker's surroundings."""
    return Bench(history)


@pytest.fixture
def make_job() -> Any:
    """Return `a_tuning_job`."""
    return a_tuning_job
