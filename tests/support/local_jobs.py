"""Jobs for `foretune run` whose trials are small Python programs, and the command as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import yaml

from foretune.cli.main import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORETUNE: Final = (sys.executable, "-m", "foretune")

PROGRAM: Final = """
    import json, os, sys, time, urllib.error, urllib.request
    params, out = json.loads(os.environ["FORETUNE_PARAMS"]), sys.argv[1]
    trial, attempt = os.environ["FORETUNE_TRIAL"], int(os.environ["FORETUNE_ATTEMPT"])
    index = int(trial.partition("/")[2])

    def tell(**what):
        with open(out, "a") as file:
            file.write(json.dumps({"index": index, "attempt": attempt, "params": params, **what}) + "\\n")

    def report(epoch, **metrics):
        body = [{"v": 1, "trial": trial, "attempt": attempt, "pod": os.environ["FORETUNE_POD_UID"],
                 "seq": epoch, "kind": "epoch", "epoch": epoch, "metrics": metrics}]
        with open(os.environ["FORETUNE_TOKEN_FILE"]) as file:
            headers = {"Authorization": "Bearer " + file.read()}
        url = os.environ["FORETUNE_REPORT_URL"] + "/v1/reports"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        while True:
            try:
                return json.load(urllib.request.urlopen(request))
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(0.02)

    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.02)
    """
"""Beginning of a trial's program: `tell` writes to the file that is its first argument."""

SIMPLE: Final = """
    tell(event="start")
    for epoch in (1, 2):
        report(epoch, accuracy=1 - (params["x"] - 0.3) ** 2 - 0.1 / epoch)
    tell(event="end")
    """
"""A program that reports two epochs and ends."""


def write_job(folder: Path, program: str = SIMPLE, *, name: str = "mine", **spec: Any) -> Path:
    """Write a manifest and its trials' program below `folder`; return the manifest's path."""
    script = folder / f"{name}.py"
    script.write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(program))
    body = {
        "apiVersion": "foretune.io/v1alpha1",
        "kind": "TuningJob",
        "metadata": {"name": name},
        "spec": {
            "objective": {"metric": "accuracy"},
            "search": {"algorithm": "sobol"},
            "space": {"x": {"type": "float", "min": 0, "max": 1}},
            "trial": {
                "image": "example.org/none:1",
                "command": [sys.executable, str(script)],
                "args": [str(folder / f"{name}.out")],
            },
            "parallelism": 2,
            "budget": {"trials": 4},
            **spec,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return path


def told(folder: Path, name: str = "mine", event: str | None = None) -> list[dict[str, Any]]:
    """Return what the programs have told, in order; of one kind of event when it is given."""
    path = folder / f"{name}.out"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    found = [json.loads(line) for line in whole.splitlines()]
    return [one for one in found if event is None or one["event"] == event]


def environ(folder: Path, **more: str) -> Mapping[str, str]:
    """Return the environment of a user whose data folder is below `folder`."""
    return {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "OMP_NUM_THREADS": "1", **more}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `foretune` with its output in a pipe."""
    return subprocess.Popen(
        [*FORETUNE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(folder),
        cwd=folder,
    )


def foretune(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `foretune` to its end; return exit code, stdout and stderr."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def shown(folder: Path, *arguments: str) -> str:
    """Return what a command that only reads prints, run in this process: it costs no start."""
    out = io.StringIO()
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(folder / "data")
    try:
        with contextlib.redirect_stdout(out):
            assert run(arguments) == 0
    finally:
        if before is None:
            del os.environ["XDG_DATA_HOME"]
        else:
            os.environ["XDG_DATA_HOME"] = before
    return out.getvalue()


def trials(folder: Path, name: str = "mine") -> list[dict[str, Any]]:
    """Return what `foretune trials -o json` says."""
    found: list[dict[str, Any]] = json.loads(shown(folder, "trials", name, "-o", "json"))
    return found
