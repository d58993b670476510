"""`python -m foretune_trainer`: runs the trial that FORETUNE_CONFIG names, and ends with its exit code.

By hand, without Foretune: `python -m foretune_trainer --dataset digits --set learning_rate=0.01`; then a
progress line an epoch is printed before each record, and at the end `test_accuracy=0.9731`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from foretune import contract
from foretune.contract import ExitCode
from foretune_report import Reporter, current
from foretune_trainer import config, hand, listing
from foretune_trainer.errors import (
    BadConfigError,
    OutOfMemoryError,
    TrainerError,
    UnwritableError,
)
from foretune_trainer.resources import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from foretune_trainer.loop import Training

THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 unless they are set. A container's libraries count the host's cores, not its share of them,
and small models are many times slower with more threads than cores."""

SUMMED_UP: Final = frozenset(
    {ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.DIVERGED, ExitCode.OUT_OF_MEMORY}
)
"""Ends that leave a summary as termination message. After others it is left to the kubelet, which shows
the end of the log: a person needs the error."""

OUT_OF_MEMORY: Final = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "not enough memory",
    "can't allocate memory",
)
"""What PyTorch's errors say when memory ran out, besides having a class for it on CUDA."""


class Leaving:
    """Hears SIGTERM: before the training it ends the process, within it the next step does."""

    def __init__(self) -> None:
        """Listen from now on."""
        self._asked = False
        self.training = False
        signal.signal(signal.SIGTERM, self._hear)

    def __call__(self) -> bool:
        """Whether SIGTERM came."""
        return self._asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        if not self.training:
            os.write(2, b"foretune_trainer: asked to leave before the training began\n")
            os._exit(ExitCode.PREEMPTED)


class Parser(argparse.ArgumentParser):
    """Tells what is wrong as the trainer does: one line, exit code 64."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadConfigError` instead of printing the usage."""
        raise BadConfigError(message)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; raises `BadConfigError`."""
    parser = Parser(
        prog="foretune_trainer",
        description="Train one model. In a trial FORETUNE_CONFIG says what; the options are for use by hand.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show models, data sets, hyperparameters and their ranges, and train nothing",
    )
    parser.add_argument("--config", type=Path, help="path of a trial.json")
    parser.add_argument("--model", default="cnn", help=", ".join(contract.BUILTIN_MODELS))
    parser.add_argument(
        "--dataset",
        default="digits",
        help=f"{', '.join(contract.BUILTIN_DATASETS)}, synthetic:<image|text>:<classes>:<size>",
    )
    parser.add_argument(
        "--data", dest="path", metavar="FOLDER", help="folder that holds the data set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="keep records, checkpoint and result here"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{', '.join((*config.HYPERPARAMETERS, *config.EXTRAS))}",
    )
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [word for word in parser.format_usage().split() if word.startswith("[--")]
        close = difflib.get_close_matches(
            unknown[0].partition("=")[0], [word.strip("[]") for word in known], n=1
        )
        hint = f"did you mean {close[0]}?" if close else "--help shows what is"
        raise BadConfigError(f"{unknown[0]}: is no argument of this program; {hint}")
    return options


def trial(options: argparse.Namespace) -> config.TrialConfig:
    """Return what to train; raises `BadConfigError`, `BadExtraError`."""
    path = options.config or os.environ.get(contract.ENV_CONFIG)
    if path is not None:
        return config.load(Path(path))
    workload: dict[str, Any] = {"model": options.model, "dataset": options.dataset}
    if options.path is not None:
        workload["path"] = options.path
    raw = {
        "version": contract.CONTRACT_VERSION,
        "params": dict(_pair(text) for text in options.set),
        "workload": workload,
        "seed": options.seed,
    }
    return config.parse(raw, os.environ)


def _pair(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadConfigError(f"--set {text}: must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run(options: argparse.Namespace, leaving: Leaving, started: float) -> str:
    """Run the trial, and return why it ended; raises `TrainerError` for every other end."""
    chosen = trial(options)
    recorder: hand.Recorder | None = None
    if not current().in_trial:
        recorder = hand.Recorder(chosen, options.out)
        if options.out is not None:
            chosen = dataclasses.replace(chosen, checkpoint_dir=options.out)
    for name in THREADS:
        os.environ.setdefault(name, "1")
    # Imported only now, so that the threads are set, and what is wrong is told before torch is loaded.
    from foretune_trainer import data  # noqa: PLC0415

    meter = Meter(started)
    with meter.phase("data"):
        loaded = data.load(chosen)
    with meter.phase("startup"):
        import torch  # noqa: PLC0415

        from foretune_trainer import loop  # noqa: PLC0415
    try:
        with meter.phase("startup"):
            device = loop.pick_device()
            meter.hold(device)
            training = loop.Training(
                chosen,
                loaded,
                device=device,
                reporter=_shown(chosen, meter, recorder or current()),
                meter=meter,
                leave=leaving,
            )
        leaving.training = True
        return _train(training, recorder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(f"the device ran out of memory: {_first_line(error)}") from error
    except RuntimeError as error:
        if any(mark in str(error) for mark in OUT_OF_MEMORY):
            raise OutOfMemoryError(f"the device ran out of memory: {_first_line(error)}") from error
        raise
    finally:
        meter.close()


def _shown(chosen: config.TrialConfig, meter: Meter, reporter: Reporter) -> Reporter:
    """Show live figures where the environment gives a port for them; return the reporter to train with."""
    port = os.environ.get(contract.ENV_METRICS_PORT)
    if not port:
        return reporter
    from foretune_trainer import metrics  # noqa: PLC0415 - prometheus_client only where it is asked for

    return metrics.started(port, os.environ.get("RANK"), chosen, meter, reporter)


def _train(training: Training, recorder: hand.Recorder | None) -> str:
    """Train to the end and look at the test once; return why it ended."""
    if training.resume():
        at = training.progress
        print(f"resumed after epoch {at.epoch}, step {at.step}", flush=True)
    if recorder is not None:
        recorder.begin(training.progress.epoch)
    if not training.run():
        return "stopped"
    failed = None
    if recorder is not None:
        try:
            training.save()
        except OSError as error:
            failed = error
    accuracy = training.test()
    training.report_test(accuracy)
    if recorder is not None:
        recorder.end(accuracy)
    if failed is not None:
        raise UnwritableError(f"the last checkpoint could not be written: {failed.strerror}")
    return "done"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one trial and return its exit code."""
    started = time.monotonic()
    leaving = Leaving()
    code, reason = ExitCode.BUG, "error"
    try:
        options = arguments(sys.argv[1:] if argv is None else argv)
        if options.list:
            print(listing.text())
            return int(ExitCode.DONE)
        reason = run(options, leaving, started)
        code = ExitCode.DONE
    except TrainerError as error:
        code, reason = error.code, error.code.name.lower()
        print(f"foretune_trainer: {error}", file=sys.stderr, flush=True)
    except Exception:  # noqa: BLE001 - the edge: what nobody foresaw gets its own exit code
        traceback.print_exc()
    current().finish(reason, message=code in SUMMED_UP)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
