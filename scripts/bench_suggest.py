"""How long a suggestion takes, and how much memory the process that computes it holds.

    python -m scripts.bench_suggest            prints a table, writes build/bench-suggest.json
    python -m scripts.bench_suggest --repeats 50 --sizes 10 100

Measured through `SuggestionService`, the object behind the HTTP service, in a process of its own that has
what `foretune suggestion` imports. CPU seconds are those of all its threads: on a machine with other work
they tell what wall time would be without it. Each request is about another job: observations of its own, 60 % spread
over the space and 40 % near the best, one in twenty out of memory, and 4 trials pending.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune.api.space import parse_space
from foretune.domain.job import Goal, Objective
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.ports import SuggestionRequest
from foretune.search.sampling import sobol_points

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from foretune.domain.space import Params, Space

FILE: Final = Path("build/bench-suggest.json")
"""Where the figures go, below the current folder."""

SIZES: Final = (10, 100, 300)
"""Numbers of observations."""

PENDING: Final = 4
"""Trials that run while the next one is asked for."""

WARM_UP: Final = 3
"""Requests of a size that come before those that count."""

SPACE: Final = {
    "lr": {"min": 0.00001, "max": 0.1, "scale": "log"},
    "batch_size": {"values": [16, 32, 64, 128, 256]},
    "layers": {"min": 1, "max": 8},
    "dropout": {"min": 0.0, "max": 0.6, "type": "float"},
    "optimizer": {"values": ["adam", "sgd", "rmsprop"]},
    "epochs": {"min": 1, "max": 30},
}
"""The six hyperparameters of the built-in trainer."""

BARE: Final = "import torch, gpytorch, botorch\n"
"""What the memory is compared with."""

STATUS: Final = Path("/proc/self/status")


def loss(params: Params, rng: random.Random) -> float:
    """Return a noisy valley over `SPACE`."""
    lr, layers, epochs = (float(params[name]) for name in ("lr", "layers", "epochs"))
    return (
        0.2
        + 0.1 * (math.log10(lr) + 2.7) ** 2
        + 0.05 * abs(math.log2(float(params["batch_size"]) / 64))
        + 0.01 * (layers - 5) ** 2
        + 0.5 * (float(params["dropout"]) - 0.2) ** 2
        + {"adam": 0.0, "sgd": 0.08, "rmsprop": 0.03}[str(params["optimizer"])]
        + 0.5 * math.exp(-epochs / 8)
        + rng.gauss(0.0, 0.01)
    )


def near(space: Space, params: Params, rng: random.Random) -> Params:
    """Return a neighbour: every number moved by about a tenth of its range."""
    return {
        p.name: p.from_unit(min(1.0, max(0.0, p.to_unit(params[p.name]) + rng.gauss(0.0, 0.1))))
        for p in space.parameters
    }


def observed(space: Space, count: int, seed: int) -> list[Trial]:
    """Return `count` ended trials of a job and `PENDING` running ones, all different."""
    rng = random.Random(seed)  # noqa: S311 - not cryptography
    stream = sobol_points(space, seed)
    trials: dict[str, Trial] = {}
    best: Trial | None = None
    while len(trials) < count + PENDING:
        spread = best is None or rng.random() < 0.6  # noqa: PLR2004 - as the module says
        params = next(stream) if spread or best is None else near(space, best.params, rng)
        state, value, reason = TrialState.RUNNING, None, None
        if len(trials) < count:
            state, value, reason = TrialState.COMPLETED, loss(params, rng), EndReason.DONE
            if len(trials) % 20 == 19:  # noqa: PLR2004 - one in twenty
                state, value, reason = TrialState.INFEASIBLE, None, EndReason.OUT_OF_MEMORY
        trial = Trial(
            job_uid=f"bench-{seed}",
            index=len(trials),
            params=params,
            state=state,
            config_hash="",
            value=value,
            reason=reason,
        )
        if trials.setdefault(space.key(params), trial) is trial and value is not None:
            best = trial if best is None or value < (best.value or math.inf) else best
    return list(trials.values())


def memory() -> dict[str, float]:
    """Return the resident memory of this process in MiB: now, and its peak."""
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", STATUS.read_text(encoding="utf-8")))
    return {"rss": int(found["VmRSS"]) / 1024, "peak": int(found["VmHWM"]) / 1024}


def bare() -> float:
    """Return MiB that a fresh process holds after nothing but the imports."""
    code = BARE + (
        f"import re\nprint(re.search(r'VmRSS:\\s+(\\d+)', open({str(STATUS)!r}).read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def serve(pipe: Connection, sizes: list[int], repeats: int) -> None:
    """Measure in this process; sends the figures and the memory after them through `pipe`."""
    import uvicorn  # noqa: F401, PLC0415 - held by the process that is measured

    import foretune.services.suggestion.http  # noqa: F401, PLC0415
    from foretune.services.suggestion.service import SuggestionService  # noqa: PLC0415

    space = parse_space(SPACE, "space")
    service = SuggestionService()
    service.warm_up()
    found: dict[str, Any] = {"latency": []}
    started = memory()["rss"]
    for size in sizes:
        seconds: list[float] = []
        busy: list[float] = []
        proposers: list[str] = []
        for seed in range(WARM_UP + repeats):
            request = SuggestionRequest(
                job_uid=f"bench-{seed}",
                index=size + PENDING,
                space=space,
                objective=Objective(metric="val_loss", goal=Goal.MINIMIZE),
                algorithm="auto",
                seed=seed,
                trials=observed(space, size, seed),
                timeout_s=600.0,
            )
            began, worked = time.perf_counter(), time.process_time()
            proposers.append(service.suggest(request).proposer)
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - worked)
        if set(proposers) != {"gp"}:
            raise SystemExit(f"n = {size}: answered by {sorted(set(proposers))}, not by the model")
        row = {"p50_s": 0.5, "p95_s": 0.95, "max_s": 1.0}
        row = {name: quantile(seconds[WARM_UP:], share) for name, share in row.items()}
        row |= {
            "cpu_p50_s": quantile(busy[WARM_UP:], 0.5),
            "cpu_p95_s": quantile(busy[WARM_UP:], 0.95),
        }
        found["latency"].append({"n": size, **row})
    service.close()
    pipe.send(found | {"memory_mib": {"started": started} | memory()})


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that so large a share of `values` does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def measure(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Return all figures. Raises `RuntimeError` when the measured process fails."""
    base = bare()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, sizes, repeats)
    )
    child.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the measured process ended with {child.exitcode}") from None
    child.join()
    found["memory_mib"] |= {"bare": base, "growth": found["memory_mib"]["rss"] - base}
    found["repeats"], found["pending"] = repeats, PENDING
    packages = ("torch", "gpytorch", "botorch")
    found["versions"] = {name: version(name) for name in packages}
    found["versions"]["python"] = platform.python_version()
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures as Markdown, ready for docs/benchmarks.md."""
    columns = {
        "p50": "p50_s",
        "p95": "p95_s",
        "max": "max_s",
        "CPU p50": "cpu_p50_s",
        "CPU p95": "cpu_p95_s",
    }
    heads = " | ".join(f"{head} (s)" for head in columns)
    rows = [f"| observations | {heads} |", "|---" * (len(columns) + 1) + "|"]
    for row in found["latency"]:
        cells = " | ".join(f"{row[name]:.3f}" for name in columns.values())
        rows.append(f"| {row['n']} | {cells} |")
    held = found["memory_mib"]
    rows += ["", "| memory | MiB |", "|---|---|"]
    rows += [f"| import of torch, gpytorch, botorch alone | {held['bare']:.0f} |"]
    rows += [f"| suggestion service, started | {held['started']:.0f} |"]
    rows += [f"| after all suggestions | {held['rss']:.0f} |"]
    rows += [f"| growth | {held['growth']:.0f} |", f"| peak | {held['peak']:.0f} |"]
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    found = measure(options.sizes, options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    print(f"\nwritten: {options.out} ({found['machine']}; load {os.getloadavg()[0]:.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
