"""docs/reference/metrics.md from the table.

python -m foretune.adapters.telemetry.docs            writes it
python -m foretune.adapters.telemetry.docs --check    says when it is stale; exit code 1
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from foretune.adapters.telemetry.catalogue import METRICS, Process
from foretune.adapters.telemetry.jobs import MAX_JOBS
from foretune.api import generated

PAGE: Final = Path("docs/reference/metrics.md")
"""Where the page is, below the repository's root."""

PORTS: Final = {Process.OPERATOR: 9090, Process.TRACKER: 9091, Process.SUGGESTION: 9092}
"""Default ports, as in `foretune.settings`."""

HEAD: Final = f"""\
<!-- Written by `python -m foretune.adapters.telemetry.docs` from the table of metrics: do not edit. -->

# Metrics

Each process has a port of its own for `/metrics`, `/healthz` and `/readyz` (`FORETUNE_METRICS_PORT`).
A probe answers 200, or 503 with the reason as text. `process_*` and `python_*` are there as well.

* Counters and histograms have bounded labels only; a value outside its set is counted as `other`.
* Series with the label `tuningjob` end when the job is deleted. At most {MAX_JOBS} jobs have series of their own,
  running ones first, then the newest; `foretune_metrics_dropped_objects` counts the rest.
* Only the operator that acts shows jobs, so a plain `sum()` is right with several replicas.
* What is not known is absent, never 0.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for process, port in PORTS.items():
        parts += [f"## {process.value.capitalize()}, port {port}\n", _table(process)]
    return "\n".join(parts)


def _table(process: Process) -> str:
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        if metric.process is not process:
            continue
        labels = ", ".join(metric.labels) or "-"
        buckets = ", ".join(f"{bound:g}" for bound in metric.buckets)
        text = metric.help + (f" Buckets (s): {buckets}." if buckets else "")
        rows.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {text} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page in the current folder; return the exit code."""
    return generated.run(
        arguments, module="foretune.adapters.telemetry.docs", path=PAGE, text=page()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
