"""A run by hand, without Foretune: what it prints, and what it keeps in a folder."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune_report import Reporter
from foretune_report.reporter import Reply, plain_line
from foretune_trainer.errors import BadConfigError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from foretune_trainer import config

RECORDS: Final = "records.jsonl"
"""File in the folder with a record a line: what a trial would have reported."""

RESULT: Final = "result.json"
"""File in the folder with the end of the run; there once the run is done."""

TRIAL: Final = "local/0"
"""Identity of the records."""


class Recorder(Reporter):
    """Prints a progress line an epoch and the records of a trial; keeps them where there is a folder."""

    def __init__(self, chosen: config.TrialConfig, folder: Path | None) -> None:
        """Take the folder; raises `BadConfigError` when it can't be made."""
        super().__init__({})
        self._chosen, self._folder = chosen, folder
        self._records: list[dict[str, Any]] = []
        self._failed: OSError | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadConfigError(f"--out {folder}: {error.strerror}") from error

    def begin(self, epoch: int) -> None:
        """Keep the records up to `epoch`, from which the run goes on, and no others.

        Raises `BadConfigError` when the folder can't be written to.
        """
        if self._folder is None:
            return
        try:
            self._begin(self._folder, epoch)
        except OSError as error:
            raise BadConfigError(f"--out {self._folder}: {error.strerror}") from error

    def _begin(self, folder: Path, epoch: int) -> None:
        (folder / RESULT).unlink(missing_ok=True)
        path = folder / RECORDS
        lines = path.read_text().splitlines() if path.exists() else []
        # A run that was killed may have left a torn line, which is passed over.
        found = contract.parse_report_lines("\n".join(contract.STDOUT_MARK + one for one in lines))
        self._records = [
            record for record in found if record["kind"] == "epoch" and record["epoch"] <= epoch
        ]
        path.write_text("".join(f"{json.dumps(record)}\n" for record in self._records))

    def report(
        self,
        metrics: Mapping[str, Any],
        *,
        epoch: float | None = None,
        step: int | None = None,
        kind: str | None = None,
        **more: Any,
    ) -> Reply:
        """Print and keep one record; nobody ever asks a run by hand to stop.

        Where it can't be kept the run goes on, and `end` says so.
        """
        finite, nonfinite = contract.split_metrics(dict(metrics))
        record = {
            "v": contract.CONTRACT_VERSION,
            "trial": TRIAL,
            "attempt": 0,
            "pod": "-",
            "seq": len(self._records),
            "ts": round(time.time(), 3),
            "kind": kind or "epoch",
            "epoch": epoch,
            "step": step,
            "metrics": finite,
            "nonfinite": nonfinite,
            **more,
        }
        self._records.append(record)
        if record["kind"] == "epoch":
            print(plain_line(record))
        print(contract.report_line(record), flush=True)
        if self._folder is not None:
            try:
                with (self._folder / RECORDS).open("a") as file:
                    file.write(f"{json.dumps(record)}\n")
            except OSError as error:
                self._failed = error
        return Reply()

    def end(self, accuracy: float) -> None:
        """Write the result, and print the test's accuracy as the last line.

        Raises `UnwritableError` when the folder lacks any of it.
        """
        print(f"test_accuracy={accuracy:.4f}", flush=True)
        try:
            self._keep_result(accuracy)
        except OSError as error:
            self._failed = error
        if self._failed is not None:
            raise UnwritableError(
                f"--out {self._folder}: not all could be written: {self._failed.strerror}"
            )

    def _keep_result(self, accuracy: float) -> None:
        if self._folder is not None:
            epochs = [record for record in self._records if record["kind"] == "epoch"]
            first, last = (epochs[0], epochs[-1]) if epochs else ({}, {})
            result = {
                "model": self._chosen.model,
                "dataset": self._chosen.dataset,
                "seed": self._chosen.seed,
                "values": dict(self._chosen.values),
                "epochs": self._records[-1]["epoch"],
                "metrics": last.get("metrics"),
                "test_accuracy": accuracy,
                "resources": self._records[-1]["resources"],
                "data_fingerprint": first.get("data_fingerprint"),
                "tags": first.get("tags"),
            }
            temporary = self._folder / f"{RESULT}.tmp"
            temporary.write_text(json.dumps(result, indent=1) + "\n")
            temporary.replace(self._folder / RESULT)
