"""`python -m foretune_trainer` as a trial: its reports, its exit codes, its signals."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.scripted_server import refusing
from tests.support.trials import trial_json
from tests.support.until import until

from foretune import contract
from foretune.contract import ExitCode
from foretune.domain.logs import parse_termination
from foretune_trainer import __main__ as program
from foretune_trainer import config, listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.trials import Pod, Tracked

    Make = Callable[..., Pod]

ROOT = Path(__file__).parents[2]

LONG = {"lr": 0.01, "epochs": 5000, "batch_size": 64}
"""Parameters of a trial that does not end by itself within a test."""


@pytest.mark.slow
class TestTrial:
    """Whole trials, reporting to the real tracker."""

    def test_to_its_end(self, tracked: Tracked) -> None:
        """Each epoch becomes a point with its resources, the test's accuracy comes last, exit code 0."""
        pod = tracked.pod()
        code, out, err = pod.train()
        assert (code, err) == (0, "")
        points = tracked.curve()
        assert [point.epoch for point in points] == [1, 2, 3]
        for point in points:
            assert set(point.metrics) >= set(contract.BUILTIN_METRICS)
            assert 0 <= point.metrics["accuracy"] <= 1
        assert points[-1].resources["samples"] == 3 * 360
        assert set(points[-1].resources) >= {"wall_s", "cpu_s", "samples_per_s", "rss_peak_bytes"}
        assert [p.epoch for p in points if "test_accuracy" in p.metrics] == [3]
        lines = contract.parse_report_lines(out)
        assert [line["kind"] for line in lines] == ["epoch", "epoch", "epoch", "final"]
        assert re.fullmatch("sha256:[0-9a-f]{64}", lines[0]["data_fingerprint"])
        _, last = parse_termination(pod.message)
        assert last["metrics"] == points[-1].metrics
        assert json.loads(pod.message)["reason"] == "done"
        assert json.loads(pod.message)["dropped"] == 0

    def test_tracker_away(self, pod: Make) -> None:
        """Without a tracker the trial trains on; stdout and the termination message carry its curve."""
        with refusing() as url:
            here = pod(url=url)
            code, out, _ = here.train()
        assert code == 0
        assert len(contract.parse_report_lines(out)) == 4
        assert json.loads(here.message)["dropped"] == 4

    def test_stop(self, tracked: Tracked) -> None:
        """A stop from the tracker ends the trial with code 0 and without a look at the test split."""
        pod = tracked.pod(config=trial_json(params=LONG))
        process = pod.command("-m", "foretune_trainer")
        until(lambda: tracked.reports() > 0, "a report", limit_s=180)
        tracked.stop()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(pod.message)["reason"] == "stopped"
        assert "test_accuracy" not in out

    def test_sigterm_and_resume(self, tracked: Tracked) -> None:
        """SIGTERM: checkpoint and exit code 75; the next attempt goes on from there, not from epoch 1."""
        config = trial_json(params=LONG)
        pod = tracked.pod(0, config=config)
        process = pod.command("-m", "foretune_trainer")
        until(lambda: tracked.reports() >= 2, "two reports", limit_s=180)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == ExitCode.PREEMPTED, err
        assert "a checkpoint was written" in err
        assert json.loads(pod.message)["reason"] == "preempted"
        done = int(tracked.curve()[-1].epoch)
        params = {**LONG, "epochs": done + 2}
        again = tracked.pod(1, config=trial_json(params=params))
        code, out, err = again.train()
        assert code == 0, err
        assert f"resumed after epoch {done}, step" in out
        reported = contract.parse_report_lines(out)
        assert [line["epoch"] for line in reported if line["kind"] == "epoch"] == [
            done + 1,
            done + 2,
        ]
        assert [point.epoch for point in tracked.curve()] == list(range(1, done + 3))

    def test_sigterm_before_training(self, pod: Make) -> None:
        """SIGTERM while the libraries load ends the process at once with 75: there is nothing to keep."""
        here = pod(config=trial_json(params=LONG))
        program_text = (
            "import os, signal, foretune_trainer.__main__ as m\n"
            "m.trial = lambda options: os.kill(os.getpid(), signal.SIGTERM)\n"
            "raise SystemExit(m.main([]))"
        )
        code, _, err = here.run("-c", program_text)
        assert code == ExitCode.PREEMPTED
        assert "before the training began" in err

    def test_kill_and_resume(self, tracked: Tracked) -> None:
        """After kill -9 the next attempt starts from the last checkpoint, here the last epoch's."""
        config = trial_json(params=LONG, checkpoint={"everySeconds": 0})
        process = tracked.pod(0, config=config).command("-m", "foretune_trainer")
        checkpoint = tracked.folder / "checkpoints" / "manifest.json"
        until(checkpoint.exists, "a checkpoint", limit_s=180)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        again = tracked.pod(1, config=config).command("-m", "foretune_trainer")
        assert again.stdout is not None
        first = again.stdout.readline()
        again.kill()
        again.communicate(timeout=60)
        assert first.startswith("resumed after epoch ")

    @pytest.mark.parametrize(
        ("changes", "code", "said"),
        [
            ({"params": {"learning_rat": 1}}, 78, "did you mean learning_rate?"),
            ({"params": {"layers": 0}}, 64, "params.layers: must be a whole number"),
            ({"workload": {"model": "cnn", "dataset": "cifar"}}, 64, "must be one of digits"),
            (
                {"workload": {"model": "cnn", "dataset": "mnist", "path": "/no"}},
                74,
                "/no is no folder",
            ),
        ],
    )
    def test_wrong_input(self, pod: Make, changes: dict[str, Any], code: int, said: str) -> None:
        """Each wrong input ends with its code; the last line of the log says what would be right."""
        here = pod(config=trial_json(**changes))
        found, out, err = here.train()
        assert found == code, err
        assert said in err.splitlines()[-1]
        assert (out, here.message) == ("", ""), (
            "the kubelet shows the log where there is no message"
        )

    def test_diverged(self, pod: Make) -> None:
        """A loss that is never finite ends with 79, its metrics named as not finite."""
        config = trial_json(
            workload={"model": "transformer", "dataset": "digits", "extras": {"max_samples": 200}},
            params={"lr": 100.0, "optimizer": "sgd", "epochs": 50},
        )
        here = pod(config=config)
        code, out, err = here.train()
        assert code == ExitCode.DIVERGED, err
        lines = contract.parse_report_lines(out)
        assert len(lines) == 2
        assert lines[-1]["nonfinite"] == ["train_loss", "val_loss"]
        assert json.loads(here.message)["reason"] == "diverged"

    def test_out_of_memory(self, pod: Make) -> None:
        """A model that does not fit ends with 80, not with a traceback."""
        config = trial_json(
            workload={"model": "transformer", "dataset": "digits", "extras": {"width": 4096}},
            params={"layers": 48},
        )
        here = pod(config=config)
        limit = 2 * 2**30  # of private memory: the model would take 25 GB
        done = subprocess.run(
            [sys.executable, "-m", "foretune_trainer"],
            env=here.env,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
        assert "out of memory" in done.stderr.splitlines()[-1]
        assert json.loads(here.message)["reason"] == "out_of_memory"

    def test_bug(self, pod: Make) -> None:
        """What nobody foresaw ends with 70 and a traceback in the log."""
        here = pod()
        (Path(here.env[contract.ENV_CHECKPOINT_DIR])).parent.mkdir(exist_ok=True)
        program_text = (
            "import foretune_trainer.__main__ as m\n"
            "m.trial = lambda options: 1 / 0\n"
            "raise SystemExit(m.main([]))"
        )
        code, _, err = here.run("-c", program_text)
        assert code == ExitCode.BUG
        assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"

    def test_by_hand(self, tmp_path: Path) -> None:
        """Without Foretune the options say what to train; digits load no large library, and one thread."""
        text = (
            "import sys, foretune_trainer.__main__ as m\n"
            "code = m.main(['--set', 'epochs=1', '--set', 'optimizer=sgd', '--set', 'max_samples=200'])\n"
            "heavy = ('transformers', 'datasets', 'torch._dynamo', 'pandas', 'PIL')\n"
            "import torch\n"
            "print([n for n in heavy if n in sys.modules], torch.get_num_threads(), code)"
        )
        lines = by_hand(text, tmp_path).splitlines()
        assert re.match(r"epoch 1 step \d+: accuracy=\S+ val_loss=\S+ train_loss=", lines[0])
        kinds = [record["kind"] for record in contract.parse_report_lines("\n".join(lines))]
        assert kinds == ["epoch", "final"]
        assert re.fullmatch(r"test_accuracy=0\.\d{4}", lines[-2])
        assert lines[-1] == "[] 1 0"
        assert list(tmp_path.iterdir()) == []

    def test_by_hand_into_a_folder(self, tmp_path: Path) -> None:
        """The folder has records, checkpoint and result; the same folder goes on with more epochs."""
        text = (
            "import foretune_trainer.__main__ as m\n"
            "for epochs in (2, 3):\n"
            "    m.main(['--out', 'run', '--set', 'max_samples=200', '--set', f'epochs={epochs}'])"
        )
        out = by_hand(text, tmp_path)
        assert "resumed after epoch 2, step 0" in out
        folder = tmp_path / "run"
        assert {path.name for path in folder.iterdir()} == {
            "checkpoint-000001.pt",
            "checkpoint-000002.pt",
            "manifest.json",
            "records.jsonl",
            "result.json",
        }
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        assert [(one["kind"], one["epoch"]) for one in records] == [
            ("epoch", 1),
            ("epoch", 2),
            ("epoch", 3),
            ("final", 3),
        ]
        assert [one["seq"] for one in records] == [0, 1, 2, 3]
        result = json.loads((folder / "result.json").read_text())
        assert result["metrics"] == records[2]["metrics"]
        assert "test_accuracy" not in result["metrics"]
        assert out.splitlines()[-1] == f"test_accuracy={result['test_accuracy']:.4f}"


def by_hand(text: str, folder: Path) -> str:
    """Run a program in `folder`, in no trial and without a word on threads; return what it prints."""
    kept = ("FORETUNE_", "OMP_", "MKL_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(kept)}
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_answers_without_torch(tmp_path: Path) -> None:
    """The list and a wrong configuration are answered without loading torch."""
    text = (
        "import sys, foretune_trainer.__main__ as m\n"
        "m.main(['--list'])\n"
        "code = m.main(['--set', 'layers=none'])\n"
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert by_hand(text, tmp_path).splitlines()[-1] == "64 False False"


def test_list() -> None:
    """The list names each model, data set, hyperparameter, alias and extra, with natural cells flagged."""
    shown = listing.text()
    rows = {line.split()[0]: line for line in shown.splitlines() if line}
    for name in (*contract.BUILTIN_DATASETS, *config.HYPERPARAMETERS, *config.EXTRAS):
        assert name in rows
    for name, others in contract.BUILTIN_PARAMETERS.items():
        assert all(other in rows[name] for other in others)
    head = next(line for line in shown.splitlines() if line.startswith("data set"))
    assert head.split()[3:] == list(contract.BUILTIN_MODELS)
    for dataset, kind in config.KINDS.items():
        cells = dict(zip(contract.BUILTIN_MODELS, rows[dataset].split()[2:], strict=True))
        assert {one for one in cells if cells[one] == "natural"} == set(config.NATURAL[kind])
    assert "a number > 0 and <= 100" in rows["learning_rate"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--modle", "cnn"], "--modle: is no argument of this program; did you mean --model?"),
        (["--model", "cn"], "did you mean cnn?"),
        (["--dataset", "mnits"], "did you mean mnist?"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--seed", "-1"], "seed: must be a whole number >= 0"),
        (["--set", "epochs"], "--set epochs: must be NAME=VALUE"),
        (["--set", "epochs=0"], "params.epochs: must be a whole number from 1"),
        (["--out", "/dev/null/run"], "--out /dev/null/run: Not a directory"),
    ],
)
def test_wrong_arguments(
    argv: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong argument ends with 64 and one line that says what would be right."""
    monkeypatch.setattr(program, "Leaving", lambda: None)  # it would listen on in this process
    assert program.main(argv) == ExitCode.BAD_CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("lr=1e-3", ("lr", 0.001)),
        ("optimizer=sgd", ("optimizer", "sgd")),
        ("layers=2", ("layers", 2)),
        ("x=a=b", ("x", "a=b")),
        ("x=", ("x", "")),
    ],
)
def test_pairs(text: str, pair: tuple[str, Any]) -> None:
    """A value on the command line is JSON where it can be, else text."""
    assert program._pair(text) == pair


@pytest.mark.slow
def test_the_wheel_has_the_data(tmp_path: Path) -> None:
    """The wheel that images install brings digits, its card, and both packages."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= {
        "foretune_trainer/data/digits.parquet",
        "foretune_trainer/data/digits.md",
        "foretune_trainer/__main__.py",
        "foretune_report/__init__.py",
    }
