"""`report()`: makes the record, prints it, hands it to the sender. Never raises, never waits."""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretune import contract
from foretune_report import spool as spools
from foretune_report.sender import Sender
from foretune_report.summary import Summary
from foretune_report.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

FLUSH_S: Final = 5.0
"""Seconds that the end of a program waits for its last reports."""

MAX_METRICS: Final = 256
"""Metrics a tracker takes in one report; further ones are left out."""

MAX_NAME: Final = 128
"""Characters of a metric's name."""

MAX_STEP: Final = 2**31 - 1
"""Largest step a tracker takes."""


@dataclass(frozen=True)
class Reply:
    """What the tracker last asked of this trial."""

    action: contract.Action = contract.Action.CONTINUE
    reason: str | None = None

    @property
    def should_stop(self) -> bool:
        """Whether the training should end now (after a checkpoint, if it can write one)."""
        return self.action is not contract.Action.CONTINUE


class Reporter:
    """The reports of one process; `current()` returns this process's own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Take the environment of the contract; without `FORETUNE_TRIAL` reports are only printed."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._trial = environ.get(contract.ENV_TRIAL)
        self._attempt = _whole(environ.get(contract.ENV_ATTEMPT), 0)
        self._pod = environ.get(contract.ENV_POD_UID) or "-"
        self._termination = Path(
            environ.get(contract.ENV_TERMINATION_LOG) or contract.TERMINATION_LOG
        )
        self._summary = Summary(*_objective(environ.get(contract.ENV_CONFIG)))
        self._finished = False
        self._told: set[str] = set()
        self._old: list[dict[str, Any]] = []
        self._old_files: list[Path] = []
        self._spool = spools.Spool(self._spool_path(environ) if self._trial else None)
        url = environ.get(contract.ENV_REPORT_URL)
        self._sender: Sender | None = None
        if self._trial and url:
            token, authority = contract.ENV_TOKEN_FILE, contract.ENV_CA_FILE
            transport = Transport(url, environ.get(token), environ.get(authority))
            self._sender = Sender(transport, self._spool)

    def _spool_path(self, environ: Mapping[str, str]) -> Path | None:
        """Return this pod's spool file, after reading what earlier pods left beside it."""
        folder = Path(environ.get(contract.ENV_CHECKPOINT_DIR) or contract.WORK_DIR)
        name = "".join(c for c in self._pod if c.isalnum() or c == "-")
        path = folder / f"{spools.PREFIX}{self._attempt}-{name}.jsonl"
        try:
            if contract.ENV_CHECKPOINT_DIR in environ:
                folder.mkdir(parents=True, exist_ok=True)
            self._old, self._old_files = spools.leftovers(folder, path, self._trial or "")
            return path if os.access(folder, os.W_OK) else None
        except OSError:
            return None

    @property
    def in_trial(self) -> bool:
        """Whether this process is a trial's."""
        return self._trial is not None

    @property
    def reply(self) -> Reply:
        """What the tracker last asked for; cheap enough for every step."""
        sender = self._sender
        return Reply(sender.action, sender.reason) if sender is not None else Reply()

    @property
    def waiting(self) -> int:
        """Reports that did not arrive so far: on their way, or dropped."""
        return self._sender.lost if self._sender is not None else 0

    def report(
        self,
        metrics: Mapping[str, Any],
        *,
        epoch: float | None = None,
        step: int | None = None,
        kind: str | None = None,
        **more: Any,
    ) -> Reply:
        """Report metrics; `more` are further fields of a report (`resources`, `data_fingerprint`, ...)."""
        try:
            if os.getpid() == self._process:
                self._report(metrics, epoch, step, kind, more)
        except Exception as error:  # noqa: BLE001 - a report must never end a training
            self._tell("bug", f"a report was lost: {error!r}")
        return self.reply

    def _report(
        self,
        given: Mapping[str, Any],
        epoch: float | None,
        step: int | None,
        kind: str | None,
        more: Mapping[str, Any],
    ) -> None:
        metrics, nonfinite = contract.split_metrics(self._numbers(given))
        at, by = _number(epoch), _number(step)
        record: dict[str, Any] = {"metrics": metrics, "nonfinite": nonfinite, **more}
        if at is not None and math.isfinite(at) and at >= 0:
            record["epoch"] = int(at) if at.is_integer() else at
        if by is not None and math.isfinite(by) and 0 <= by <= MAX_STEP:
            record["step"] = int(by)
        record["kind"] = kind or ("epoch" if "epoch" in record else "step")
        self._summary.add(record)
        if self._trial is None:
            _print(plain_line(record))
            return
        with self._lock:
            self._adopt(record)
            self._emit(record)

    def _emit(self, record: dict[str, Any]) -> None:
        """Give a record its identity, print it, and hand it over."""
        seq = self._spool.take_seq()
        whole = {
            "v": contract.CONTRACT_VERSION,
            "trial": self._trial,
            "attempt": self._attempt,
            "pod": self._pod,
            "seq": seq,
            "ts": round(time.time(), 3),
            **record,
        }
        _print(contract.report_line(whole))
        if self._sender is not None:
            self._sender.put(seq, spools.encode(whole))

    def _adopt(self, record: dict[str, Any]) -> None:
        """Send what earlier pods of this trial could not, once it is known where this one goes on.

        Their reports of epochs that this process does not repeat become its own; their resources do
        not, since those add up within one process.
        """
        if "epoch" not in record or not (self._old or self._old_files):
            return
        old, files = self._old, self._old_files
        self._old, self._old_files = [], []
        # A trial that was cut off after its last epoch repeats none: it has only its end to tell.
        limit = record["epoch"] + (0.5 if record["kind"] == "final" else 0.0)
        for one in old:
            if isinstance(one.get("epoch"), (int, float)) and one["epoch"] < limit:
                self._emit({k: v for k, v in one.items() if k not in _IDENTITY})
        if self._sender is not None:
            self._sender.retire(files)

    def _numbers(self, given: Mapping[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, value in list(given.items())[:MAX_METRICS]:
            number = _number(value)
            if number is None or not 0 < len(str(name)) <= MAX_NAME:
                self._tell(str(name), f"metric {str(name)[:MAX_NAME]!r}: {value!r} is no number")
            else:
                found[str(name)] = number
        return found

    def finish(self, reason: str = "exit", *, message: bool = True) -> None:
        """Deliver what is left, at most 5 s, and write the termination message; once."""
        if self._finished or os.getpid() != self._process or self._trial is None:
            return
        self._finished = True
        if self._sender is not None:
            self._sender.close(FLUSH_S)
        if message:
            lost = self._sender.lost if self._sender is not None else 0
            self._terminate(self._summary.message(reason, lost))

    def _terminate(self, text: str) -> None:
        try:
            if (
                self._termination.exists()
            ):  # the kubelet made it; elsewhere there is nobody to read it
                self._termination.write_text(text, encoding="utf-8")
        except OSError as error:
            self._tell("termination", f"no termination message: {error}")

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told and len(self._told) < MAX_METRICS:
            self._told.add(kind)
            print(f"foretune_report: {text}", file=sys.stderr, flush=True)


_IDENTITY: Final = frozenset({"v", "trial", "attempt", "pod", "seq", "resources"})


def _objective(config: str | None) -> tuple[str | None, str]:
    """Return the metric and the goal, as `trial.json` says."""
    try:
        found = json.loads(Path(config or contract.CONFIG_DIR + "/trial.json").read_bytes())
        return str(found["objective"]["metric"]), str(found["objective"]["goal"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, "maximize"


def _number(value: Any) -> float | None:
    """Return a number, a 0-d tensor or an array of one element as a float; None for anything else."""
    if value is None or isinstance(value, (str, bytes, bool)):
        return None
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - a foreign type may raise anything
        return None


def number_in(value: Any) -> float | None:
    """Return a number that may also stand in a text, as some frameworks log theirs; None for anything else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return _number(value)


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default


def plain_line(record: Mapping[str, Any]) -> str:
    """Return a report as people read it: `epoch 3: accuracy=0.9137 val_loss=0.31`."""
    at = [f"{name} {record[name]}" for name in ("epoch", "step") if name in record]
    shown = [f"{name}={value:.6g}" for name, value in record["metrics"].items()]
    shown += [f"{name}=nan" for name in record["nonfinite"]]
    return f"{' '.join(at) or 'report'}: {' '.join(shown)}"


def _print(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return  # nobody listens to stdout any more; the other carriers do not need it


_current: Reporter | None = None


def current() -> Reporter:
    """Return this process's reporter, made from its environment at the first call."""
    global _current  # noqa: PLW0603 - one process, one trial
    if _current is None:
        try:
            _current = Reporter(os.environ)
        except Exception as error:  # noqa: BLE001 - a report must never end a training
            print(f"foretune_report: reports are only printed: {error!r}", file=sys.stderr)
            _current = Reporter({})
        atexit.register(_at_exit, _current)
    return _current


def _at_exit(reporter: Reporter) -> None:
    """Finish; after an uncaught exception the message is left to the kubelet, which shows the traceback."""
    reporter.finish(message=getattr(sys, "last_type", None) is None)


def report(epoch: float | None = None, step: int | None = None, **metrics: Any) -> Reply:
    """Report metrics of this trial, and return what the tracker last asked for.

    Values may be anything that `float()` takes. Outside a trial a plain line is printed and nothing is
    ever asked. Never raises and never waits for the network.
    """
    return current().report(metrics, epoch=epoch, step=step)


def finish(reason: str = "exit", *, message: bool = True) -> None:
    """Deliver what is left and write the termination message; happens by itself when Python exits."""
    current().finish(reason, message=message)
