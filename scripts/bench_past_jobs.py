"""What the choice of past jobs costs the tracker when its history is large.

    python -m scripts.bench_past_jobs                        10,000 jobs of 100 trials in a SQLite file
    python -m scripts.bench_past_jobs --jobs 1000 --trials 10

The jobs are of five namespaces, of 100 tasks and 500 names, a third of them published to the cluster. Asked
for is what one job may learn from: first by a tracker that has just started, then for other jobs by one that
has read the past jobs already, as happens once a minute a job. Figures are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert

from foretune.adapters.store import SqlHistory
from foretune.adapters.store.schema import jobs, proposals, tasks, trials
from foretune.app.clock import SystemClock
from foretune.domain.history import JobRecord
from foretune.domain.job import Objective, PriorSpec, Scope
from foretune.services.tracker.catalogue import Catalogue, Sharing

if TYPE_CHECKING:
    from sqlalchemy import Connection

SPACE: Final = {
    "lr": {"min": 0.0001, "max": 0.1, "scale": "log"},
    "layers": {"values": [2, 3, 4]},
    "batch_size": {"min": 8, "max": 512},
}
CONTEXT: Final = {"model": "cnn"}
OBJECTIVE: Final = {"metric": "accuracy", "goal": "maximize", "target": None, "reduce": "best"}
MANIFEST: Final = {"space": SPACE, "trial": {"image": "x" * 3000}}

BATCH: Final = 100
"""Jobs of one task, written in one transaction."""

SHARINGS: Final = {
    "own namespace": Sharing(),
    "cluster": Sharing(scope=Scope.CLUSTER, publishers=frozenset({"*"})),
    "local file": Sharing(everywhere=True),
}


def main() -> None:
    """Fill a history and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        history = SqlHistory(str(Path(folder) / "history.db"))
        history.migrate()
        fill(history, wanted.jobs, wanted.trials)
        print(f"{wanted.jobs * wanted.trials:,} trials of {wanted.jobs:,} jobs")
        print(
            "| scope | tasks | first (s) | later, median (s) | later, max (s) |\n|---|---|---|---|---|"
        )
        for name, sharing in SHARINGS.items():
            count, first, later = measured(history, sharing, wanted.repeats)
            print(f"| {name} | {count} | {first:.3f} | {median(later):.3f} | {max(later):.3f} |")
        history.close()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def measured(history: SqlHistory, sharing: Sharing, repeats: int) -> tuple[int, float, list[float]]:
    """Return the number of tasks, and CPU seconds of the first look and of those for other jobs."""
    catalogue, seconds, count = Catalogue(history, SystemClock(), sharing), [], 0
    for number in range(repeats + 1):
        asking = JobRecord(
            uid=f"asks-{number}",
            namespace="team-1",
            name="job-1",
            manifest=MANIFEST,
            objective=Objective(metric="accuracy"),
            context=CONTEXT,
        )
        began = time.process_time()
        count = len(catalogue.past(asking, PriorSpec()).tasks)
        seconds.append(time.process_time() - began)
    return count, seconds[0], seconds[1:]


def fill(history: SqlHistory, count: int, size: int) -> None:
    """Write `count` jobs of `size` ended trials, past the usual way, which commits each of them."""
    rng = random.Random(0)  # noqa: S311 - no secret
    for first in range(0, count, BATCH):
        with history._database.writing() as connection:  # noqa: SLF001 - see above
            _task(connection, first // BATCH)
            for number in range(first, min(first + BATCH, count)):
                _job(connection, number, first // BATCH, size, rng)


def _task(connection: Connection, number: int) -> None:
    values: dict[str, Any] = {"id": number + 1, "namespace": "team-0", "signature": str(number)}
    values |= {"metric": "accuracy", "goal": "maximize", "space": SPACE, "context": CONTEXT}
    connection.execute(insert(tasks).values(**values))


def _job(connection: Connection, number: int, task: int, size: int, rng: random.Random) -> None:
    uid = f"job-{number}"
    values: dict[str, Any] = {
        "uid": uid,
        "task_id": task + 1,
        "namespace": f"team-{number % 5}",
        "name": f"job-{number % 500}",
        "manifest": MANIFEST,
        "objective": OBJECTIVE,
        "context": CONTEXT,
        "created_at": float(number),
        "closed_at": float(number),
        "phase": "Complete",
        "published": "namespace" if number % 3 else "cluster",
    }
    connection.execute(insert(jobs).values(**values))
    identities = [{"job_uid": uid, "trial_index": index} for index in range(size)]
    end = {"state": "Completed", "reason": "Done", "created_at": 1.0, "epochs": 3.0, "reports": 3}
    connection.execute(
        insert(trials),
        [
            {**one, **end, "ended_at": float(number), "value": rng.random(), "metrics_seen": []}
            for one in identities
        ],
    )
    made = {"config_hash": "", "proposer": "gp", "detail": {}, "created_at": 1.0}
    params = {"lr": 0.01, "layers": 3}
    connection.execute(
        insert(proposals),
        [
            {**one, **made, "params": {**params, "batch_size": rng.randint(8, 512)}}
            for one in identities
        ],
    )


if __name__ == "__main__":
    main()
