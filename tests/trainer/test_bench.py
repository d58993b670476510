"""The benchmark, in a tiny size on the CPU: figures, failures, what no time is left for, and what it imports."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from foretune_trainer import bench

if TYPE_CHECKING:
    from pathlib import Path

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure the GPU")

CALL = """
import sys
from foretune_trainer import bench
code = bench.main(sys.argv[1:])
print(code, *sorted({"datasets", "pydantic", "pyarrow", "pandas"} & set(sys.modules)), file=sys.stderr)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@CPU_ONLY
@pytest.mark.slow
def test_two_cells(tmp_path: Path) -> None:
    """Two cells in all forms that a CPU has; the process has loaded none of the large libraries."""
    out = tmp_path / "bench.jsonl"
    arguments = ["--seconds", "0.1", "--cells", "cnn/mnist", "lstm/sst2", "--out", str(out)]
    sections = ["--sections", "eager", "graph", "against", "optimiser"]
    done = subprocess.run(
        [sys.executable, "-c", CALL, *arguments, *sections],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.split() == ["0"]
    head, *rows = lines(out)
    assert (head["section"], head["device"]) == ("head", "cpu")
    assert [row["cell"] for row in rows if row["section"] == "eager"] == ["cnn/mnist", "lstm/sst2"]
    for row in rows:
        if row["variant"] in bench.GPU_ONLY:
            assert row["problem"] == "skipped: needs a GPU"
            continue
        assert "problem" not in row
        assert 0 < row["ms_median"] <= row["ms_p95"]
        assert row["first_step_s"] > 0
        # What a CPU can't know is left out.
        assert not {"mfu", "mib", "gpu_busy", "j_per_1000"} & set(row)
    ours, book = (
        next(row for row in rows if row["section"] == name and row["cell"] == "cnn/mnist")
        for name in ("eager", "against")
    )
    assert ours["samples_per_s"] == pytest.approx(64000 / ours["ms_median"], rel=0.9)
    assert (ours["variant"], book["variant"]) == ("bf16", "textbook loop")
    # Forward and backward of the two convolutions and the last layer, by hand; the images need no gradient.
    first, second, last = 9 * 16 * 28**2, 9 * 16 * 32 * 14**2, 128 * 10
    assert ours["gflop_per_sample"] == pytest.approx(
        2 * (2 * first + 3 * second + 3 * last) / 1e9, abs=1e-4
    )
    assert "gflop_per_sample" not in rows[1]
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(rows)


class TestTrouble:
    """What goes wrong is a line, and stops nothing."""

    @staticmethod
    def a_bench(ends: float = math.inf) -> bench.Bench:
        cpu = torch.device("cpu")
        return bench.Bench(cpu, seconds=0.1, ends=ends, out=None, only=frozenset())

    def test_failure(self) -> None:
        """A cell that fails says why, and the next one is measured."""
        made = self.a_bench()
        row = {"section": "eager", "cell": "cnn/mnist", "variant": "bf16"}

        def fails() -> dict[str, Any]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

        made.measured(row, fails)
        made.measured(row, lambda: {"ms_median": 1.0})
        assert made.rows[0]["problem"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
        assert made.rows[1] == {**row, "ms_median": 1.0}

    def test_no_time_left(self) -> None:
        """After the deadline nothing is begun, and what still runs is broken off; both can be seen."""
        row = {"section": "eager", "cell": "cnn/mnist", "variant": "bf16"}
        late = self.a_bench(ends=0.0)
        late.measured(row, lambda: {"ms_median": 1.0})
        assert late.rows[0]["problem"] == "skipped: no time left"

        def hangs() -> dict[str, Any]:
            while True:
                time.sleep(0.01)

        slow = self.a_bench()
        with bench.broken_off(time.monotonic() + 0.2):
            slow.measured(row, hangs)
        assert slow.rows[0]["problem"] == "DeadlineError: broken off: no time left"

    @CPU_ONLY
    def test_exit_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failure is told by the exit code; what was skipped is none."""
        monkeypatch.setitem(bench.SHAPES, "mnist", (1, 2))  # no model takes such images
        few = ["--cells", "cnn/mnist", "--seconds", "0.1"]
        assert bench.main([*few, "--sections", "eager"]) == 1
        assert bench.main([*few, "--deadline", "0"]) == 0


def test_peak_and_share() -> None:
    """The share is the model's operations at the median step, of the card's peak."""
    made = TestTrouble.a_bench()
    made.flops["cnn", "mnist"] = 2e9
    assert bench.with_mfu(made, ("cnn", "mnist"), 50, {"ms_median": 10.0}) == {"ms_median": 10.0}
    made.peak = 100e12
    assert bench.with_mfu(made, ("cnn", "mnist"), 50, {"ms_median": 10.0})["mfu"] == 0.1
    assert "mfu" not in bench.with_mfu(made, ("lstm", "sst2"), 50, {"ms_median": 10.0})
