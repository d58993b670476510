"""Checkpoints: what is kept, what is believed, and what happens when none can be written."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from foretune_trainer import checkpoint
from foretune_trainer.checkpoint import MANIFEST, Checkpoints
from foretune_trainer.errors import PreemptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.loop import Training

    MakeConfig = Callable[..., TrialConfig]
    MakeTraining = Callable[..., Training]

CPU = torch.device("cpu")


def a_state(value: float, size: int = 10) -> dict[str, Any]:
    return {"model": {"weight": torch.full((size,), value)}, "progress": {"epoch": 1}}


def kept(folder: Path, digest: str = "d") -> Checkpoints:
    return Checkpoints(folder, digest, 0.0)


def value_of(found: dict[str, Any] | None) -> float | None:
    return None if found is None else float(found["model"]["weight"][0])


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder in which three checkpoints were written, after the epochs 1, 2 and 3."""
    writer = kept(tmp_path)
    for epoch in (1, 2, 3):
        assert writer.save(a_state(epoch), epoch=epoch, step=0)
    return tmp_path


def manifest(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["checkpoints"]
    return found


def test_two_are_kept(three: Path) -> None:
    """The manifest describes the files that are there: the newest two, and nothing else is left."""
    entries = manifest(three)
    assert [(one["epoch"], one["step"]) for one in entries] == [(3, 0), (2, 0)]
    assert {path.name for path in three.iterdir()} == {MANIFEST, *(one["file"] for one in entries)}
    for one in entries:
        raw = (three / one["file"]).read_bytes()
        assert (one["sha256"], one["bytes"]) == (hashlib.sha256(raw).hexdigest(), len(raw))
        assert one["parameters"] == "d"
        assert one["code"] == f"foretune 0.1.0, torch {torch.__version__}"
    assert value_of(kept(three).load(CPU)) == 3.0


def test_numbers_go_on_in_another_process(three: Path) -> None:
    """Another attempt's checkpoints get names of their own: what is read is never overwritten."""
    before = {one["file"] for one in manifest(three)}
    assert kept(three).save(a_state(4.0), epoch=4, step=1)
    assert manifest(three)[0]["file"] not in before
    assert [one["epoch"] for one in manifest(three)] == [4, 3]


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "half": raw[: len(raw) // 2],
                "empty": b"",
                "one bit": bytes(flipped),
                "longer": raw + b"x",
            }[how]
        )


@pytest.mark.parametrize("how", ["half", "empty", "one bit", "longer", "gone"])
def test_damaged_newest(three: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint before a damaged one is taken; one line says which, and why."""
    newest = three / manifest(three)[0]["file"]
    damage(newest, how)
    assert value_of(kept(three).load(CPU)) == 2.0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"foretune_trainer: {newest} (epoch 3, step 0) ")
    assert "can't be read: No such file" in line if how == "gone" else "sha256" in line
    assert line.endswith("; trying the one before it, epoch 2, step 0")


def test_both_damaged(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When neither is whole the trial starts anew, and says so."""
    for one in manifest(three):
        damage(three / one["file"], "half")
    assert kept(three).load(CPU) is None
    assert [line.rpartition("; ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "trying the one before it, epoch 2, step 0",
        "starting anew",
    ]


def test_swapped(three: Path) -> None:
    """A file under another one's name is not what the manifest promises."""
    newest, before = (three / one["file"] for one in manifest(three))
    newest.write_bytes(before.read_bytes())
    assert value_of(kept(three).load(CPU)) == 2.0  # from its own file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 2}', "is damaged"),
        ('{"format": 2, "checkpoints": [{"file": "x"}]}', "is damaged"),
        ('{"format": 1, "checkpoints": []}', "has another format"),
    ],
)
def test_bad_manifest(
    three: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a manifest nothing is believed; the next checkpoint makes a new one."""
    (three / MANIFEST).write_text(text)
    assert kept(three).load(CPU) is None
    assert said in capsys.readouterr().err
    assert kept(three).save(a_state(9.0), epoch=9, step=0)
    assert value_of(kept(three).load(CPU)) == 9.0
    assert len(list(three.glob("checkpoint-*"))) == 1


def test_a_path_out_of_the_folder(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest can't make the trainer read a file elsewhere."""
    raw = json.loads((three / MANIFEST).read_text())
    raw["checkpoints"][0]["file"] = "../checkpoint-000009.pt"
    (three / MANIFEST).write_text(json.dumps(raw))
    assert kept(three).load(CPU) is None
    assert "names files that are no checkpoints" in capsys.readouterr().err


def test_no_code_is_run(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that would run code when unpickled is refused before it does, though its sha256 is right."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (three / "pwned",))

    newest = three / manifest(three)[0]["file"]
    torch.save({"format": checkpoint.FORMAT, "state": Evil()}, newest)
    raw = json.loads((three / MANIFEST).read_text())
    raw["checkpoints"][0]["sha256"] = hashlib.sha256(newest.read_bytes()).hexdigest()
    (three / MANIFEST).write_text(json.dumps(raw))
    assert value_of(kept(three).load(CPU)) == 2.0
    assert "can't be read" in capsys.readouterr().err
    assert not (three / "pwned").exists()


def test_another_configuration(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of other parameters is never gone on from."""
    assert kept(three, "other").load(CPU) is None
    assert "is of another configuration" in capsys.readouterr().err


def test_unfinished_files(three: Path) -> None:
    """What a killed process left is removed once nobody can be writing it any more."""
    old, fresh = three / ".checkpoint-000009.pt.1.tmp", three / ".checkpoint-000009.pt.2.tmp"
    for path in (old, fresh):
        path.write_bytes(b"torn")
    past = time.time() - checkpoint.STALE_S - 1
    os.utime(old, (past, past))
    assert kept(three).save(a_state(4.0), epoch=4, step=0)
    assert not old.exists()
    assert fresh.exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 64 KiB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_no_room(three: Path) -> None:
    """A write that fails half-way raises the system's own error, and leaves all as it was."""
    before = {path.name: path.read_bytes() for path in three.iterdir()}
    writer = kept(three)
    with pytest.raises(OSError, match="File too large"):
        writer.save(a_state(4.0, size=2**20), epoch=4, step=0)
    assert {path.name: path.read_bytes() for path in three.iterdir()} == before
    assert (writer.written, writer.failed) == (0, 1)
    assert writer.newest is not None
    assert writer.newest.epoch == 3


def test_no_room_for_the_manifest(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that no manifest names takes no room."""
    before = {path.name: path.read_bytes() for path in three.iterdir()}
    real, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(checkpoint.os, "fsync", second_fails)
    with pytest.raises(OSError, match="No space left"):
        kept(three).save(a_state(4.0), epoch=4, step=0)
    assert {path.name: path.read_bytes() for path in three.iterdir()} == before


def test_a_failure_is_not_repeated_at_once(tmp_path: Path) -> None:
    """After a failed attempt the next is due as late as after one that worked."""
    (tmp_path / "file").write_text("")
    writer = Checkpoints(tmp_path / "file" / "folder", "d", 3600.0)
    with pytest.raises(NotADirectoryError):
        writer.save(a_state(1.0), epoch=1, step=0)
    assert not writer.due


@pytest.mark.usefixtures("small_files")
class TestTraining:
    """A trial whose checkpoints can't be written."""

    WIDE = {"model": "cnn", "dataset": "digits", "extras": {"max_samples": 200, "width": 32}}  # noqa: RUF012

    def test_goes_on(
        self,
        make_config: MakeConfig,
        make_training: MakeTraining,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The trial comes to its end, and says once that nothing could be written."""
        monkeypatch.setattr(checkpoint, "SAVE_SHARE", 0.0)
        training = make_training(
            make_config(
                workload=self.WIDE, checkpoint={"dir": str(tmp_path / "c"), "everySeconds": 0}
            )
        )
        assert training.run()
        assert training.progress.epoch == 3
        assert training._checkpoints.failed == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            "foretune_trainer: no checkpoint could be written: File too large; "
            "another attempt starts anew; training goes on"
        )

    def test_leaves_with_a_word(
        self, make_config: MakeConfig, make_training: MakeTraining, tmp_path: Path
    ) -> None:
        """When the trial is asked to leave, it says from where the next attempt goes on."""
        chosen = make_config(workload=self.WIDE, checkpoint={"dir": str(tmp_path)})
        earlier = kept(tmp_path, chosen.digest)
        assert earlier.save(a_state(1.0), epoch=2, step=5)
        training = make_training(chosen, lambda: True)
        with pytest.raises(PreemptedError) as caught:
            training.run()
        assert str(caught.value) == (
            "asked to leave after epoch 0, step 0; no checkpoint could be written: File too large; "
            "another attempt goes on from epoch 2, step 5"
        )
