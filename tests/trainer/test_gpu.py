"""The books of a GPU, with the real binding of NVML over a stand-in for NVIDIA's library."""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import Any

import pynvml
import pytest
import torch
from tests.support.nvml import UUID, Board, Library

from foretune_trainer import gpu
from foretune_trainer.gpu import Gpu

ALONE, KNOWN = 1234, {"gpu_busy_s", "energy_j", "gpu_mem_device_peak_bytes"}


class Clock:
    """The time, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library with one GPU that nobody uses."""
    made = Library()
    monkeypatch.setattr(pynvml, "nvmlLib", made)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(gpu.time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def book(library: Library, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that opens the books; looks are then at the test's command alone."""
    monkeypatch.setattr(Gpu, "_run", lambda self: None)

    def opened(uuid: str = UUID) -> Gpu:
        made = Gpu(uuid)
        made.start()
        library.boards[0].processes = [ALONE]
        return made

    return opened


def look(one: Gpu, clock: Clock, seconds: float) -> dict[str, Any]:
    """Let time pass, look, and read."""
    clock.now += seconds
    one._look()
    return one.read()


@pytest.mark.parametrize(("gpm", "source"), [(True, "gpm"), (False, "nvml")])
def test_busy_time(library: Library, clock: Clock, book: Any, gpm: bool, source: str) -> None:
    """Busy seconds are the integral of the busy share over the time between looks, by either measure."""
    board = library.boards[0]
    board.gpm = gpm
    one = book()
    board.busy = 50.0
    look(one, clock, 1.0)
    board.busy = 25.0
    found = look(one, clock, 4.0)
    assert found["gpu_busy_source"] == source
    assert found["gpu_busy_s"] == pytest.approx(0.5 + 1.0)
    other = "nvmlDeviceGetUtilizationRates" if gpm else "nvmlGpmMetricsGet"
    assert other not in library.calls


def test_energy_and_memory(library: Library, clock: Clock, book: Any) -> None:
    """Joules since the start, not since the driver was loaded; the most bytes that were ever in use."""
    one, board = book(), library.boards[0]
    board.energy, board.used = 1_000_000 + 2_500, 3 * 2**30
    look(one, clock, 1.0)
    board.energy, board.used = 1_000_000 + 3_000, 2**30
    found = look(one, clock, 1.0)
    assert (found["energy_j"], found["energy_scope"]) == (3.0, "device")
    assert found["gpu_mem_device_peak_bytes"] == 3 * 2**30 + 600 * 2**20
    assert "energy_dropped" not in found


def test_negative_energy(library: Library, clock: Clock, book: Any) -> None:
    """A counter that begins anew is dropped and counted; what comes after it counts again."""
    one, board = book(), library.boards[0]
    for energy in (1_005_000, 200, 1_200):
        board.energy = energy
        found = look(one, clock, 1.0)
    assert found["energy_j"] == 6.0
    assert found["energy_dropped"] == 1


def test_no_energy_counter(library: Library, clock: Clock, book: Any) -> None:
    """A board that does not count energy has none; its busy time is known all the same."""
    library.boards[0].energy = None
    found = look(book(), clock, 2.0)
    assert found["energy_scope"] == "none"
    assert "energy_j" not in found
    assert found["gpu_busy_s"] == 1.0


def assert_unknown(found: dict[str, Any], capsys: pytest.CaptureFixture[str], why: str) -> None:
    """Sources say none, no number is there, and one line says why."""
    assert (found["gpu_busy_source"], found["energy_scope"]) == ("none", "none")
    assert KNOWN.isdisjoint(found)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("foretune_trainer: busy time and energy of the GPU are unknown: ")
    assert re.search(why, line)


def test_second_process(
    library: Library, clock: Clock, book: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once another process uses the GPU, nothing of what was counted is told, nor later when it is gone."""
    one, board = book(), library.boards[0]
    assert look(one, clock, 1.0)["gpu_busy_s"] == 0.5
    board.processes = [ALONE, 999]
    look(one, clock, 1.0)
    board.processes = [ALONE]
    assert_unknown(look(one, clock, 1.0), capsys, "other processes use the GPU as well")


@pytest.mark.parametrize("name", ["drawing", "processes"])
def test_a_screen(
    library: Library, clock: Clock, book: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that draws on the GPU is another one, too; one process under two headings is one."""
    one, board = book(), library.boards[0]
    board.drawing = [ALONE]
    assert look(one, clock, 1.0)["gpu_busy_s"] == 0.5
    setattr(board, name, [55, 56])
    assert_unknown(look(one, clock, 1.0), capsys, "other processes")


def test_mig_from_the_start(
    library: Library, book: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU that is divided has no books: its counters are of the whole board."""
    library.boards[0].mig = 1
    assert_unknown(book().read(), capsys, r"divided \(MIG\)")


def test_a_slice(library: Library, book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """CUDA names a slice by a UUID of its own, which is no whole GPU's."""
    found = book("MIG-ac5ec0a2-9b7b-5c4e-9a27-d5a2e6d2b6a1").read()
    assert_unknown(found, capsys, "no whole GPU with the UUID MIG-ac5ec0a2")


def test_can_not_be_divided(library: Library, clock: Clock, book: Any) -> None:
    """A GPU without MIG is whole."""
    library.boards[0].mig = None
    assert look(book(), clock, 1.0)["gpu_busy_s"] == 0.5


def test_occupied(library: Library, book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory in use before we began is somebody else's, even where NVML shows no processes."""
    library.boards[0].used = 2**30
    assert_unknown(book().read(), capsys, "in use already")


def test_the_driver_s_share_is_nobody_s(library: Library, clock: Clock, book: Any) -> None:
    """An old driver can't tell its own memory from others': that alone spoils nothing."""
    library.absent.add("nvmlDeviceGetMemoryInfo_v2")
    library.boards[0].used = 2**30
    assert look(book(), clock, 1.0)["gpu_busy_s"] == 0.5


@pytest.mark.parametrize("uuid", [UUID, UUID.removeprefix("GPU-"), UUID.upper()])
def test_matched_by_uuid(library: Library, clock: Clock, book: Any, uuid: str) -> None:
    """CUDA's first GPU may be NVML's second: the UUID decides, however it is written."""
    library.boards.insert(0, Board("GPU-00000000-0000-0000-0000-000000000000", gpm=False))
    library.boards[0].energy, library.boards[1].energy = 0, 1_000_000
    one = book(uuid)
    library.boards[0].energy, library.boards[1].energy = 900_000, 1_007_000
    library.boards[1].gpm, found = True, look(one, clock, 1.0)
    assert found["energy_j"] == 7.0


@pytest.mark.parametrize(
    "function",
    [
        "nvmlInitWithFlags",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_broken_from_the_start(
    library: Library, book: Any, function: str, error: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever NVML answers at the start, the trial goes on without books."""
    library.broken[function] = error
    assert_unknown(book().read(), capsys, "NVML: ")


def test_no_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without NVIDIA's library: the real binding looks for it and says that it is not there."""
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", missing)
    assert_unknown(Gpu(UUID).read(), capsys, "NVML Shared Library Not Found")


def test_no_binding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the package there are no books, and the line says which package."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert_unknown(Gpu(UUID).read(), capsys, "nvidia-ml-py is not installed")


@pytest.mark.parametrize("gpm", [True, False])
def test_broken_for_a_moment(library: Library, clock: Clock, book: Any, gpm: bool) -> None:
    """A look that fails loses nothing: the next one spans its time."""
    library.boards[0].gpm = gpm
    one = book()
    name = "nvmlGpmSampleGet" if gpm else "nvmlDeviceGetUtilizationRates"
    library.broken[name] = pynvml.NVML_ERROR_TIMEOUT
    look(one, clock, 1.0)
    del library.broken[name]
    assert look(one, clock, 1.0)["gpu_busy_s"] == 1.0


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMemoryInfo",
        "nvmlGpmMetricsGet",
        "metric",
    ],
)
def test_broken_for_good(
    library: Library,
    clock: Clock,
    book: Any,
    function: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After some looks in a row that fail, what was counted is no longer all: it is unknown."""
    one = book()
    look(one, clock, 1.0)
    library.broken[function] = pynvml.NVML_ERROR_GPU_IS_LOST
    for _ in range(gpu.PATIENCE):
        found = look(one, clock, 1.0)
    assert_unknown(found, capsys, "GPU is lost")


def test_the_thread(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading has a look taken at once; after `stop` nobody looks any more."""
    monkeypatch.setattr(gpu, "EVERY_S", 3600.0)
    one = Gpu(UUID)
    one.start()
    try:
        library.boards[0].energy = 1_004_000
        assert one.read()["energy_j"] == 4.0
    finally:
        one.stop()
    assert not any(thread.name == "foretune-gpu" for thread in threading.enumerate())
    library.boards[0].energy = 1_009_000
    assert one.read()["energy_j"] == 4.0


def test_a_driver_that_hangs(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A call that does not return keeps the training waiting once; after a while nothing is known any more."""
    monkeypatch.setattr(gpu, "FRESH_S", 0.05)
    one, hang = Gpu(UUID), threading.Event()
    one.start()
    real = Library._nvmlDeviceGetComputeRunningProcesses_v3

    def hanging(self: Library, handle: Any, count: Any, array: Any) -> int | None:
        hang.wait(60)
        return real(self, handle, count, array)

    monkeypatch.setattr(Library, "_nvmlDeviceGetComputeRunningProcesses_v3", hanging)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        assert one.read()["gpu_busy_source"] == "gpm"
        monkeypatch.setattr(gpu, "FRESH_S", 3600.0)
        assert one.read()["gpu_busy_source"] == "gpm"
        monkeypatch.setattr(gpu, "STALE_S", 0.0)
        assert_unknown(one.read(), capsys, "does not answer")
        assert one.read()["gpu_busy_source"] == "none"
    finally:
        hang.set()
        one._thread.join(10)  # type: ignore[union-attr]
        one.stop()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU: none here")
def test_a_real_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """On a real GPU the books grow while it works, or say why they can't be kept."""
    device = torch.device("cuda")
    one = Gpu(str(torch.cuda.get_device_properties(device).uuid))
    one.start()
    try:
        begin = time.monotonic()
        left = torch.randn(4096, 4096, device=device)
        while time.monotonic() - begin < 3:
            left = (left @ left).clamp(-1, 1)
            torch.cuda.synchronize()
        found = one.read()
    finally:
        one.stop()
    if one.why_not is not None:
        assert_unknown(found, capsys, ".")
        return
    assert found["gpu_busy_source"] in {gpu.GPM, gpu.RATES}
    assert 1.0 < found["gpu_busy_s"] <= 1.1 * (time.monotonic() - begin)
    assert found["gpu_mem_device_peak_bytes"] > left.nbytes
    if found["energy_scope"] == "device":
        assert found["energy_j"] > 10
