"""Records of replays, as a ledger keeps them."""

from __future__ import annotations

from typing import Any


def a_run(method: str, regret: list[float], **changes: Any) -> dict[str, Any]:
    """Return a whole record."""
    n = len(regret)
    values: dict[str, Any] = {
        "family": "xgb34",
        "task": "t0",
        "dataset": "d0",
        "seed": 0,
        "method": method,
        "protocol": "pool",
        "batch": 1,
        "budget": n,
        "rows": 200,
        "sources": 0,
        "variant": "",
        "tried": list(range(n)),
        "values": [0.0] * n,
        "mean": [None] * n,
        "sd": [None] * n,
        "proposer": [method] * n,
        "wall_s": [0.2] * n,
        "cpu_s": [0.1] * n,
        "regret": regret,
        "regret_observed": regret,
        "regret_of_range": regret,
        "moved": 0,
        "grown_mib": 12.0,
        "code": "abc",
    }
    return {**values, **changes}
