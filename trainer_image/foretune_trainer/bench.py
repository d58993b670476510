"""`python -m foretune_trainer.bench`: how fast this card trains, in less than eight minutes.

Data are made, in the shapes of the real ones. Each measurement is a line of JSON as soon as it is there; one
that fails says why and stops none after it, and what no time is left for is a line that says so. Needs torch
and numpy, and transformers for BERT. Compare figures of one call only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset
    from foretune_trainer.loop import Training

DEADLINE_S: Final = 450.0
"""Seconds after which nothing more is begun."""

GRACE_S: Final = 20.0
"""Seconds after the deadline at which what still runs is broken off."""

WARM_UP: Final = 20
"""Steps before those that are measured."""

EXAMPLES: Final = 4096
"""Examples of each made data set: whole batches of 16 and 64."""

SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imdb": (256,),
    "ag_news": (64,),
    "sst2": (64,),
}
"""Channels, height and width of images; ids of a text."""

CLASSES: Final = {"mnist": 10, "cifar10": 10, "imdb": 2, "ag_news": 4, "sst2": 2}

VOCABULARY: Final = 8000

BIG: Final = {"width": 768, "layers": 12}
"""BERT of the base size, on a GPU only."""

BASE: Final = "base size"
"""Mark of its variants."""

GPU_ONLY: Final = ("graph", "tf32")
"""Variants that a CPU does not have."""

TYPICAL: Final = (
    *(("cnn", "mnist"), ("resnet", "cifar10"), ("lstm", "sst2")),
    *(("transformer", "ag_news"), ("bert", "imdb")),
)
"""A natural cell of each model, for what is not measured with all."""

SECTIONS: Final = ("eager", "graph", "against", "precision", "optimiser", "compile")
"""What is measured, in this order."""

COLUMNS: Final = (
    *("section", "cell", "variant", "batch", "ms_median", "ms_p95", "samples_per_s", "mfu"),
    *("gpu_busy", "j_per_1000", "mib", "first_step_s", "problem"),
)
"""Columns of the table, which are keys of the lines of JSON too. What is not known is not there."""

PEAK_SIDE: Final = 8192
"""Side of the matrices whose product in bf16 is taken as the card's peak."""


class DeadlineError(Exception):
    """A measurement was broken off."""


@dataclass
class Bench:
    """One call: where its lines go, what it has measured, and how long it may."""

    device: Any
    """A `torch.device`; torch is not loaded before the threads are set."""
    seconds: float
    ends: float
    out: Path | None
    only: frozenset[tuple[str, str]]
    rows: list[dict[str, Any]] = field(default_factory=list)
    flops: dict[tuple[str, str], float] = field(default_factory=dict)
    """Floating-point operations of an example, forward and backward, by cell."""
    peak: float | None = None
    """Operations a second that this card reached."""
    gpu: Any = None

    @property
    def cuda(self) -> bool:
        """Whether a GPU is measured."""
        return bool(self.device.type == "cuda")

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.cuda:
            import torch  # noqa: PLC0415 - loaded long ago

            torch.cuda.synchronize(self.device)

    def tell(self, row: dict[str, Any]) -> None:
        """Keep a line and write it."""
        self.rows.append(row)
        text = json.dumps(row)
        if self.out is not None:
            with self.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        print(text, flush=True)

    def measured(self, row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Measure one cell, or tell why there is no figure."""
        if self.only and tuple(row["cell"].split("/")) not in self.only:
            return
        if not self.cuda and (BASE in row["variant"] or row["variant"] in GPU_ONLY):
            self.tell({**row, "problem": "skipped: needs a GPU"})
            return
        if time.monotonic() > self.ends:
            self.tell({**row, "problem": "skipped: no time left"})
            return
        try:
            self.tell({**row, **measure()})
        except Exception as error:  # noqa: BLE001 - a cell that fails must not hide the others
            text = (str(error) or type(error).__name__).splitlines()[0]
            self.tell({**row, "problem": f"{type(error).__name__}: {text[:200]}"})
        finally:
            if self.cuda:
                import torch  # noqa: PLC0415 - loaded long ago

                torch.cuda.empty_cache()


# ------------------------------------------------------------------ what is trained
def made(dataset: str) -> Dataset:
    """Return a data set of random examples in the shape of the real one."""
    import numpy as np  # noqa: PLC0415 - threads are set first

    from foretune_trainer.data import Dataset, Part  # noqa: PLC0415 - as above

    random, shape, classes = np.random.default_rng(0), SHAPES[dataset], CLASSES[dataset]
    image = len(shape) > 1

    def part(count: int) -> Part:
        if image:
            inputs = random.integers(0, 256, (count, *shape), np.uint8)
        else:
            # Some texts are shorter than others, as in life.
            inputs = random.integers(3, VOCABULARY, (count, *shape), np.int32)
            ends = random.integers(shape[0] // 4, shape[0] + 1, count)
            inputs[np.arange(shape[0]) >= ends[:, None]] = 0
        return Part(inputs, random.integers(0, classes, count))

    return Dataset(
        kind="image" if image else "text",
        classes=classes,
        train=part(EXAMPLES),
        valid=part(classes),
        test=part(classes),
        fingerprint="made",
        mean=127.5,
        deviation=73.6,
        vocabulary=0 if image else VOCABULARY,
    )


def chosen(model: str, dataset: str, batch: int, **extras: Any) -> TrialConfig:
    """Return the default configuration of a cell."""
    from foretune import contract  # noqa: PLC0415 - the standard library alone
    from foretune_trainer import config  # noqa: PLC0415 - as above

    layers = extras.pop("layers", 2)
    if len(SHAPES[dataset]) == 1:
        extras.setdefault("max_length", SHAPES[dataset][0])
    raw = {
        "version": contract.CONTRACT_VERSION,
        "params": {"batch_size": batch, "layers": layers, "optimizer": "adam"},
        "workload": {"model": model, "dataset": dataset, "extras": extras},
        "seed": 0,
    }
    return config.parse(raw, {})


def training(bench: Bench, one: TrialConfig) -> Training:
    """Return the trial, built on the device; nobody hears of it."""
    from foretune_report import Reporter  # noqa: PLC0415 - threads are set first
    from foretune_trainer import loop  # noqa: PLC0415 - as above
    from foretune_trainer.resources import Meter  # noqa: PLC0415 - as above

    return loop.Training(
        one,
        made(one.dataset),
        device=bench.device,
        reporter=Reporter({}),
        meter=Meter(time.monotonic()),
        leave=lambda: False,
    )


# ------------------------------------------------------------------ how it is measured
def timed(bench: Bench, begin: Callable[[], Iterator[int]], seconds: float) -> dict[str, Any]:
    """Return the figures of steps: `begin` builds everything, and each `next` makes a step.

    On a GPU the times of steps are between events on the device; nothing waits between two steps.
    """
    import torch  # noqa: PLC0415 - threads are set first

    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    start = time.monotonic()
    steps = begin()
    next(steps)
    bench.wait()
    found: dict[str, Any] = {"first_step_s": round(time.monotonic() - start, 3)}
    for _ in range(WARM_UP if bench.cuda else 2):
        next(steps)
    bench.wait()
    before = bench.gpu.read() if bench.gpu is not None else {}
    marks, samples, start = [_mark(bench)], 0, time.monotonic()
    while time.monotonic() - start < seconds or len(marks) < 3:  # noqa: PLR2004 - two steps at least
        samples += next(steps)
        marks.append(_mark(bench))
        if bench.cuda and len(marks) % 100 == 0:
            marks[-50].synchronize()  # so that the host does not run far ahead
    bench.wait()
    wall = time.monotonic() - start
    times = sorted(_between(bench, a, b) for a, b in itertools.pairwise(marks))
    found |= {
        "steps": len(times),
        "ms_median": round(statistics.median(times), 4),
        "ms_p95": round(times[min(len(times) - 1, int(0.95 * len(times)))], 4),
        "samples_per_s": round(samples / wall, 1),
    }
    if bench.cuda:
        found["mib"] = round(torch.cuda.max_memory_allocated(bench.device) / 2**20, 1)
    after = bench.gpu.read() if bench.gpu is not None else {}
    if "gpu_busy_s" in before and "gpu_busy_s" in after:
        found["gpu_busy"] = round((after["gpu_busy_s"] - before["gpu_busy_s"]) / wall, 3)
        found["gpu_busy_source"] = after["gpu_busy_source"]
    if "energy_j" in before and "energy_j" in after:
        found["j_per_1000"] = round((after["energy_j"] - before["energy_j"]) / samples * 1000, 3)
    return found


def _mark(bench: Bench) -> Any:
    if not bench.cuda:
        return time.perf_counter()
    import torch  # noqa: PLC0415 - loaded long ago

    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _between(bench: Bench, first: Any, second: Any) -> float:
    """Return the milliseconds between two marks."""
    return float(first.elapsed_time(second) if bench.cuda else (second - first) * 1000)


def with_mfu(
    bench: Bench, cell: tuple[str, str], batch: int, row: dict[str, Any]
) -> dict[str, Any]:
    """Add the share of the card's peak that the model's own operations reach, where both are known."""
    flops = bench.flops.get(cell)
    if flops is not None and bench.peak is not None:
        row["mfu"] = round(flops * batch / (row["ms_median"] / 1000) / bench.peak, 5)
    return row


def count_flops(bench: Bench, model: str, dataset: str, **extras: Any) -> float | None:
    """Return the operations of an example; None for an LSTM, whose kernels PyTorch does not count."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - threads are set first

    if model == "lstm":
        return None
    steps = training(bench, chosen(model, dataset, 64, graph="off", **extras)).endless()
    with FlopCounterMode(display=False) as counted:
        samples = next(steps)
    return float(counted.get_total_flops()) / samples


def peak(bench: Bench) -> float | None:
    """Return the operations a second of a large product in bf16; None on a CPU."""
    if not bench.cuda:
        return None
    import torch  # noqa: PLC0415 - threads are set first

    one = torch.randn(PEAK_SIDE, PEAK_SIDE, device=bench.device, dtype=torch.bfloat16)
    for _ in range(5):
        one @ one
    first: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    last: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(30):
        one @ one
    last.record()
    bench.wait()
    return 30.0 * 2 * PEAK_SIDE**3 / float(first.elapsed_time(last)) * 1000


# ------------------------------------------------------------------ the sections
def eager(bench: Bench) -> None:
    """All cells, and BERT of the base size, at batch 64 in bf16."""
    for dataset in SHAPES:
        for model in ("cnn", "resnet", "lstm", "transformer", "bert"):
            bench.measured(
                {"section": "eager", "cell": f"{model}/{dataset}", "variant": "bf16", "batch": 64},
                lambda cell=(model, dataset): _eager(bench, cell),  # type: ignore[misc]
            )
    bench.measured(
        {"section": "eager", "cell": "bert/imdb", "variant": f"bf16, {BASE}", "batch": 64},
        lambda: _eager(bench, ("bert", "imdb"), key=("bert-base", "imdb"), **BIG),
    )


def _eager(
    bench: Bench, cell: tuple[str, str], *, key: tuple[str, str] | None = None, **extras: Any
) -> dict[str, Any]:
    one = chosen(*cell, 64, precision="bf16", graph="off", **extras)
    row = timed(bench, lambda: training(bench, one).endless(), bench.seconds)
    flops = count_flops(bench, *cell, **extras)
    if flops is not None:
        bench.flops[key or cell] = flops
        row["gflop_per_sample"] = round(flops / 1e9, 4)
    return with_mfu(bench, key or cell, 64, row)


def graph(bench: Bench) -> None:
    """The natural cells at batch 16, where starting kernels takes long: eager against CUDA graph."""
    from foretune_trainer.config import NATURAL  # noqa: PLC0415 - threads are set first

    for dataset, shape in SHAPES.items():
        for model in NATURAL["image" if len(shape) > 1 else "text"]:
            for variant in ("eager", "graph"):
                row = {"section": "graph", "cell": f"{model}/{dataset}", "variant": variant}
                bench.measured(
                    {**row, "batch": 16},
                    lambda cell=(model, dataset), variant=variant: _graph(bench, cell, variant),  # type: ignore[misc]
                )


def _graph(bench: Bench, cell: tuple[str, str], variant: str) -> dict[str, Any]:
    one = chosen(*cell, 16, precision="auto", graph="on" if variant == "graph" else "off")
    made_here: list[Training] = []

    def begin() -> Iterator[int]:
        made_here.append(training(bench, one))
        return made_here[0].endless()

    row = with_mfu(bench, cell, 16, timed(bench, begin, bench.seconds / 2))
    tags = made_here[0].tags()
    if variant == "graph" and not tags["graph"]:
        row["problem"] = "failed: no graph was captured; see the log"
    return {**row, "precision": tags["precision"]}


def against(bench: Bench) -> None:
    """The same models in the loop that textbooks have, and BERT in the Trainer of transformers."""
    for model, dataset in TYPICAL:
        bench.measured(
            {
                "section": "against",
                "cell": f"{model}/{dataset}",
                "variant": "textbook loop",
                "batch": 64,
            },
            lambda cell=(model, dataset): with_mfu(  # type: ignore[misc]
                bench, cell, 64, timed(bench, lambda: textbook(bench, *cell), bench.seconds / 2)
            ),
        )
    bench.measured(
        {"section": "against", "cell": "bert/imdb", "variant": "transformers.Trainer", "batch": 64},
        lambda: _trainer(bench),
    )


def textbook(bench: Bench, model: str, dataset: str) -> Iterator[int]:
    """Train as most scripts do: a DataLoader, PyTorch's optimiser, the loss read at each step; in bf16."""
    import torch  # noqa: PLC0415 - threads are set first
    from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415 - as above

    from foretune_trainer.models import build  # noqa: PLC0415 - as above

    loaded = made(dataset)
    net = build(chosen(model, dataset, 64), loaded).to(bench.device).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    examples = TensorDataset(
        torch.from_numpy(loaded.train.inputs), torch.from_numpy(loaded.train.labels)
    )
    loader = DataLoader(examples, batch_size=64, shuffle=True, pin_memory=bench.cuda)
    total = 0.0
    while True:
        for inputs, labels in loader:
            ready, wanted = inputs.to(bench.device), labels.to(bench.device)
            if loaded.kind == "image":
                ready = (ready.float() - loaded.mean) / loaded.deviation
            else:
                ready = ready.long()
            optimiser.zero_grad()
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(net(ready), wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item()
            yield len(wanted)


def _trainer(bench: Bench) -> dict[str, Any]:
    """Measure the Trainer in a process of its own: it imports `datasets`, which this one must not."""
    seconds = str(max(1.0, bench.seconds / 2))
    command = [sys.executable, "-m", "foretune_trainer.bench_hf", seconds, bench.device.type]
    done = subprocess.run(  # noqa: S603 - this very package
        command, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"problem": f"exit code {done.returncode}: {last[:200]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return with_mfu(bench, ("bert", "imdb"), 64, found)


def precision(bench: Bench) -> None:
    """What TF32 and bf16 are worth."""
    cells: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("resnet", "cifar10", {}),
        ("transformer", "imdb", {}),
        ("bert", "imdb", BIG),
    )
    for model, dataset, extras in cells:
        for form in ("fp32", "tf32", "bf16"):
            shown = f"{form}, {BASE}" if extras else form
            row = {"section": "precision", "cell": f"{model}/{dataset}", "variant": shown}
            one = chosen(model, dataset, 64, precision=form, graph="off", **extras)
            bench.measured(
                {**row, "batch": 64},
                lambda one=one: timed(  # type: ignore[misc]
                    bench, lambda: training(bench, one).endless(), bench.seconds / 3
                ),
            )


_CELLS_OF_OPTIMISERS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("cnn", "mnist", {}),
    ("bert", "imdb", BIG),
)


def optimiser(bench: Bench) -> None:
    """The update of the weights alone: the trainer's own Adam and SGD, PyTorch's, and PyTorch's fused."""
    for model, dataset, extras in _CELLS_OF_OPTIMISERS:
        for rule in ("adam", "sgd"):
            for variant in ("own", "torch", "torch fused"):
                shown = f"{rule}, {variant}{f', {BASE}' if extras else ''}"
                bench.measured(
                    {
                        "section": "optimiser",
                        "cell": f"{model}/{dataset}",
                        "variant": shown,
                        "batch": 1,
                    },
                    lambda args=((model, dataset, extras), rule, variant): timed(  # type: ignore[misc]
                        bench, lambda: _updates(bench, *args), bench.seconds / 6
                    ),
                )


def _updates(
    bench: Bench, cell: tuple[str, str, dict[str, Any]], rule: str, variant: str
) -> Iterator[int]:
    model, dataset, extras = cell
    import torch  # noqa: PLC0415 - threads are set first

    from foretune_trainer.models import build  # noqa: PLC0415 - as above
    from foretune_trainer.optimiser import Optimiser  # noqa: PLC0415 - as above

    net = build(chosen(model, dataset, 64, **extras), made(dataset)).to(bench.device)
    trained = [one for one in net.parameters() if one.requires_grad]
    if variant == "own":
        own = Optimiser(trained, rule)
        own.gradient.normal_()
        while True:
            own.step(1e-4)
            yield 1
    for one in trained:
        one.grad = torch.randn_like(one)
    fused = variant == "torch fused"
    theirs: torch.optim.Optimizer = (
        torch.optim.Adam(trained, lr=1e-4, fused=fused)
        if rule == "adam"
        else torch.optim.SGD(trained, lr=1e-4, momentum=0.9, nesterov=True, fused=fused)
    )
    while True:
        theirs.step()
        yield 1


def compiled(bench: Bench) -> None:
    """A cell of each model, compiled with an empty cache: what it costs (the first step), and what it gives."""
    for model, dataset in TYPICAL:
        bench.measured(
            {
                "section": "compile",
                "cell": f"{model}/{dataset}",
                "variant": "compile, cold",
                "batch": 64,
            },
            lambda cell=(model, dataset): _compiled(bench, cell),  # type: ignore[misc]
        )


def _compiled(bench: Bench, cell: tuple[str, str]) -> dict[str, Any]:
    import torch  # noqa: PLC0415 - threads are set first

    torch.compiler.reset()
    one = chosen(*cell, 64, precision="bf16", graph="off", compile="on")
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.environ[name] = str(Path(folder, name))
        try:
            row = timed(bench, lambda: training(bench, one).endless(), bench.seconds / 2)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    return with_mfu(bench, cell, 64, row)


RUN: Final = {
    "eager": eager,
    "graph": graph,
    "against": against,
    "precision": precision,
    "optimiser": optimiser,
    "compile": compiled,
}


# ------------------------------------------------------------------ the call
def head(bench: Bench) -> dict[str, Any]:
    """Return the first line: on what this was measured."""
    import torch  # noqa: PLC0415 - threads are set first

    found: dict[str, Any] = {
        "section": "head",
        "torch": torch.__version__,
        "seconds": bench.seconds,
    }
    found["threads"] = torch.get_num_threads()
    if not bench.cuda:
        return {**found, "device": "cpu"}
    about = torch.cuda.get_device_properties(bench.device)
    found |= {
        "device": about.name,
        "cuda": torch.version.cuda,
        "memory_mib": about.total_memory // 2**20,
    }
    if bench.peak is not None:
        found["peak_tflops_bf16"] = round(bench.peak / 1e12, 1)
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the lines as a table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    shown = (row for row in rows if row["section"] != "head")
    lines += [f"| {' | '.join(str(row.get(name, '')) for name in COLUMNS)} |" for row in shown]
    return "\n".join(lines)


@contextmanager
def broken_off(at: float) -> Iterator[None]:
    """Raise `DeadlineError` in whatever runs at `at` (`time.monotonic()`)."""

    def ring(number: int, frame: object) -> None:
        del number, frame
        raise DeadlineError("broken off: no time left")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, at - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a measurement failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m foretune_trainer.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each cell; default: 4")
    parser.add_argument(
        "--cells", nargs="+", default=[], metavar="MODEL/DATASET", help="only these; default: all"
    )
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, help="default: all; on a CPU eager"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="append the lines of JSON to it too"
    )
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_S, help="in seconds; default: 450"
    )
    options = parser.parse_args(argv)
    started = time.monotonic()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from foretune_trainer import loop  # noqa: PLC0415 - threads are set first
    from foretune_trainer.gpu import Gpu  # noqa: PLC0415 - as above

    bench = Bench(
        device=loop.pick_device(),
        seconds=options.seconds,
        ends=started + options.deadline,
        out=options.out,
        only=frozenset(tuple(cell.split("/")) for cell in options.cells),
    )
    if bench.cuda:
        import torch  # noqa: PLC0415 - loaded long ago

        bench.gpu = Gpu(str(torch.cuda.get_device_properties(bench.device).uuid))
        bench.gpu.start()
    bench.peak = peak(bench)
    bench.tell(head(bench))
    sections = options.sections or (SECTIONS if bench.cuda else ("eager",))
    with broken_off(bench.ends + GRACE_S):
        for section in (one for one in SECTIONS if one in sections):
            RUN[section](bench)
    if bench.gpu is not None:
        bench.gpu.stop()
    print(f"\n{table(bench.rows)}\n\n{time.monotonic() - started:.0f} s", flush=True)
    problems = [row.get("problem", "") for row in bench.rows]
    return int(any(text and not text.startswith("skipped") for text in problems))


if __name__ == "__main__":
    sys.exit(main())
