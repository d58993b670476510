"""Live figures of a trial at its port."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tests.support.nvml import UUID, Library
from tests.support.trials import trial_json
from tests.support.until import until

from foretune import contract
from foretune_report import Reporter
from foretune_trainer import config, metrics
from foretune_trainer.cgroup import Cgroup, Cpu
from foretune_trainer.checkpoint import Checkpoints
from foretune_trainer.resources import PHASES, Meter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.trials import Pod

    Make = Callable[..., Pod]

GPU = torch.device("cuda")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every series at a port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Group(Cgroup):
    def cpu(self) -> Cpu | None:
        return Cpu(3.0, 2.0, 1.0, 0.5)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A meter on a GPU that knows all there is, and its exporter."""
    library = Library()
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    for name, value in {
        "device_count": lambda: 1,
        "get_device_properties": lambda device: SimpleNamespace(uuid=UUID),
        "mem_get_info": lambda device: (0, 2**33),
        "max_memory_allocated": lambda device: 1,
        "max_memory_reserved": lambda device: 2,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Checkpoints, "results", type(Checkpoints.results)(written=2, failed=1))
    chosen = config.parse(trial_json(params={"lr": 0.0123, "epochs": 7}), {})
    meter = Meter(0.0, Group(2))
    exporter = metrics.Exporter(chosen, meter, Reporter({}))
    meter.hold(GPU)
    yield SimpleNamespace(meter=meter, exporter=exporter, library=library, chosen=chosen)
    meter.close()


def test_all_series(shown: Any) -> None:
    """With everything known there are at most 40 series, and none names the trial or a parameter's value."""
    for name in PHASES:
        with shown.meter.phase(name):
            shown.meter.trained(10)
    shown.library.boards[0].energy = 1_005_000
    shown.exporter.watched.report(
        {"accuracy": 0.9, "val_loss": 0.4, "train_loss": 0.3},
        epoch=3,
        resources=shown.meter.read(GPU),
        tags={"device": "NVIDIA H100", "precision": "bf16"},
    )
    port = free_port()
    shown.exporter.serve(port)
    found = scraped(port)
    assert len(found) == 40
    names = {name for name, _ in found}
    assert all(name.startswith("foretune_trainer_") for name in names)
    assert not [name for name in names if name.endswith("_created")]
    value = {name: v for (name, labels), v in found.items() if not labels}
    p = metrics.PREFIX
    assert value[f"{p}epoch"] == 3
    assert value[f"{p}epochs_budget"] == 7
    assert value[f"{p}objective_value"] == 0.9
    assert value[f"{p}validation_loss"] == 0.4
    assert value[f"{p}samples_total"] == 60
    assert value[f"{p}reports_total"] == 1
    assert value[f"{p}step_seconds_count"] == 6
    assert value[f"{p}gpu_held_seconds_total"] > 0
    kinds = {labels: v for (name, labels), v in found.items() if labels}
    assert kinds[(("mode", "user"),)] > 0
    assert kinds[(("source", "gpm"),)] >= 0
    assert kinds[(("scope", "device"),)] == 5.0
    assert kinds[(("kind", "device"),)] == 2**33
    assert (kinds[(("result", "written"),)], kinds[(("result", "failed"),)]) == (2, 1)
    (info,) = [dict(labels) for name, labels in found if name == f"{p}info"]
    assert info == {
        "model": "cnn",
        "dataset": "digits",
        "precision": "bf16",
        "gpu_product": "NVIDIA H100",
    }
    labels = {text for _, pairs in found for pair in pairs for text in pair}
    assert labels.isdisjoint({"demo", "job-1", "team-a", "0.0123", "lr", "job", "trial"})


def test_unknown_is_absent() -> None:
    """A trial on a CPU that has not reported has no series of a GPU, of results, or of an objective."""
    chosen = config.parse(trial_json(), {})
    meter = Meter(0.0)
    exporter = metrics.Exporter(chosen, meter, Reporter({}))
    port = free_port()
    exporter.serve(port)
    names = {name.removeprefix(metrics.PREFIX) for name, _ in scraped(port)}
    assert not [name for name in names if "gpu" in name or "energy" in name]
    assert names.isdisjoint({"info", "epoch", "objective_value", "validation_loss"})
    assert {"epochs_budget", "samples_total", "cpu_seconds_total"} <= names


def test_a_value_that_is_not_finite() -> None:
    """The last finite value stays; a NaN is no figure."""
    watched = metrics.Watched(Reporter({}), "accuracy")
    watched.report({"accuracy": 0.5}, epoch=1)
    watched.report({"accuracy": float("nan"), "val_loss": float("inf")}, epoch=2)
    assert (watched.value, watched.loss, watched.epoch, watched.made) == (0.5, None, 2, 2)


@pytest.mark.parametrize(("port", "said"), [("x", "invalid literal"), ("99999999", "port")])
def test_no_port(port: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is none is told in one line, and nothing is measured for it."""
    meter, reporter = Meter(0.0), Reporter({})
    chosen = config.parse(trial_json(), {})
    assert metrics.started(port, None, chosen, meter, reporter) is reporter
    assert meter.on_step is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"foretune_trainer: no live metrics at port {port}: ")
    assert said in line


def test_only_the_first_process() -> None:
    """Of several processes of a trial the first one shows."""
    meter, reporter = Meter(0.0), Reporter({})
    chosen = config.parse(trial_json(), {})
    assert metrics.started("not even a port", "1", chosen, meter, reporter) is reporter
    assert metrics.started(str(free_port()), "0", chosen, meter, reporter) is not reporter


@pytest.mark.slow
class TestTrial:
    """Whole trials."""

    LONG = {"lr": 0.01, "epochs": 5000, "batch_size": 64}  # noqa: RUF012

    def test_shows_what_it_does(self, pod: Make) -> None:
        """While a trial runs its port says how far it is; reports go their way all the same."""
        here = pod(config=trial_json(params=self.LONG))
        port = free_port()
        here.env[contract.ENV_METRICS_PORT] = str(port)
        process = here.command("-m", "foretune_trainer")
        epoch = (f"{metrics.PREFIX}epoch", ())

        def epochs() -> bool:
            try:
                return scraped(port).get(epoch, 0.0) >= 2
            except OSError:
                return False

        try:
            until(epochs, "two epochs at the port", limit_s=180)
            found = scraped(port)
        finally:
            process.terminate()
            out, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
        assert len(contract.parse_report_lines(out)) >= 2
        value = {name: v for (name, labels), v in found.items() if not labels}
        assert value[f"{metrics.PREFIX}step_seconds_count"] >= 12
        assert value[f"{metrics.PREFIX}step_seconds_sum"] > 0
        assert 0 < value[f"{metrics.PREFIX}objective_value"] <= 1

    def test_port_in_use(self, pod: Make) -> None:
        """A port that somebody else has ends no trial."""
        here = pod()
        with socket.socket() as taken:
            taken.bind(("", 0))
            taken.listen()
            here.env[contract.ENV_METRICS_PORT] = str(taken.getsockname()[1])
            code, _, err = here.train()
        assert code == 0
        assert re.fullmatch(
            r"foretune_trainer: no live metrics at port \d+: .*(?i:address) already in use.*\n", err
        )


def test_not_imported_unless_asked(tmp_path: Path) -> None:
    """The library is loaded only by a trial that shows its figures."""
    text = "import sys, foretune_trainer.__main__; print('prometheus_client' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "False\n"
