"""Copies of data sets in a shared cache: the same data, in less time, and never other data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.cli.exits import BAD_INPUT, COMPLETE, FAILED
from foretune.cli.main import run
from foretune_trainer import data, warm
from foretune_trainer.data import copies, words
from foretune_trainer.data.tables import NO_IMAGES, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from foretune_trainer.config import TrialConfig
    from foretune_trainer.data import Dataset

    Make = Callable[..., TrialConfig]

TEXTS = [
    f"The {word} film, No {n}: GREAT!\nnaïve İstanbul {word * (n % 3)}"
    for n, word in enumerate("abcdefgh" * 6)
]


def folder(at: Path, kind: str) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 48), ("validation", 12)):
        labels = [n % 2 for n in range(count)]
        pixels = np.random.default_rng(0).integers(0, 256, (count, 784), np.uint8)
        column = TEXTS[:count] if kind == "text" else [one.tobytes() for one in pixels]
        pq.write_table(pa.table({kind: column, "label": labels}), at / f"{name}.parquet")
    return at


def same(one: Dataset, two: Dataset) -> bool:
    parts = ("train", "valid", "test")
    rows = [(getattr(one, name), getattr(two, name)) for name in parts]
    told = ("kind", "classes", "fingerprint", "mean", "deviation", "vocabulary")
    return all(getattr(one, name) == getattr(two, name) for name in told) and all(
        (a.inputs == b.inputs).all()
        and (a.labels == b.labels).all()
        and a.inputs.dtype == b.inputs.dtype
        for a, b in rows
    )


def chosen(make_config: Make, dataset: str, path: Path, **extras: Any) -> TrialConfig:
    return make_config(
        workload={"model": "cnn", "dataset": dataset, "path": str(path), "extras": extras}
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(copies.ENV_CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("dataset", "kind", "extras"),
    [
        ("mnist", "image", {}),
        ("mnist", "image", {"max_samples": 30, "valid_fraction": 0.3}),
        ("imdb", "text", {}),
        ("imdb", "text", {"vocabulary": 16, "max_length": 5}),
        ("imdb", "text", {"max_samples": 30, "valid_fraction": 0.3, "max_length": 4000}),
    ],
)
def test_same_data(
    make_config: Make,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    kind: str,
    extras: dict[str, Any],
) -> None:
    """A trial that reads the copy has the data of one that reads the files, whatever its parameters."""
    one = chosen(make_config, dataset, folder(tmp_path / "data", kind), **extras)
    plain = data.load(one)
    assert "written" in warm.warm(dataset, one.path, cache)
    monkeypatch.setattr(data.datasets, "_read", None)  # it must not be needed
    assert same(data.load(one), plain)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=8),
    size=st.integers(3, 12),
    length=st.integers(1, 9),
    limit=st.one_of(st.none(), st.integers(1, 8)),
)
def test_any_text(texts: list[str], size: int, length: int, limit: int | None) -> None:
    """Any texts come back as they were, and have the vocabulary and ids that they would have without a copy."""
    labels = np.zeros(len(texts), np.int64)
    texts[0] += "x"  # one that is not all empty, as of any data set
    table = Table(labels, NO_IMAGES, texts)
    arrays = copies._arrays(table, table)
    back = copies._table(arrays, "test").first(limit)
    assert list(back.texts) == texts[:limit]
    assert back.cut is not None
    rows = list(range(0, len(back.labels), 2))
    wanted = words.Vocabulary.of([texts[row] for row in rows], size)
    found = back.cut.vocabulary(rows, size)
    assert (found, list(found.ids)) == (wanted, list(wanted.ids))
    assert back.cut.encode(found, length).tolist() == wanted.encode(texts[:limit], length).tolist()


class TestOtherData:
    """A copy is used for the data that it was made of, and for no others."""

    @pytest.fixture
    def one(self, make_config: Make, tmp_path: Path, cache: Path) -> TrialConfig:
        made = chosen(make_config, "imdb", folder(tmp_path / "data", "text"))
        warm.warm("imdb", made.path, cache)
        return made

    @pytest.mark.parametrize("part", [".safetensors", ".json"])
    @pytest.mark.parametrize("how", ["changed", "cut", "gone"])
    def test_damaged(
        self,
        one: TrialConfig,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        part: str,
        how: str,
    ) -> None:
        """A damaged copy is passed over, and the log says so; a warm-up writes it anew."""
        (path,) = (cache / copies.FOLDER).glob(f"*{part}")
        raw = bytearray(path.read_bytes())
        if how == "gone":
            path.unlink()
        elif how == "cut":
            path.write_bytes(raw[: len(raw) // 2])
        else:
            raw[raw.index(b'"sha256": "') + 12 if part == ".json" else len(raw) // 2] ^= 1
            path.write_bytes(raw)
        read = []
        real = data.datasets._read
        monkeypatch.setattr(data.datasets, "_read", lambda it: read.append(it) or real(it))
        found = data.load(one)
        assert read == [one]
        said = capsys.readouterr().err
        assert ("the data set is read instead" in said) is not (how == "gone" and part == ".json")
        assert "written" in warm.warm("imdb", one.path, cache)
        assert same(data.load(one), found)
        assert len(read) == 2

    def test_files_have_changed(self, one: TrialConfig, cache: Path) -> None:
        """Another row in the folder is another data set, which the copy is not; both may be kept."""
        before = data.load(one).fingerprint
        path = Path(str(one.path), "train.parquet")
        pq.write_table(pq.read_table(path).slice(0, 40), path)
        assert data.load(one).fingerprint != before
        assert "written" in warm.warm("imdb", one.path, cache)
        assert "was there" in warm.warm("imdb", one.path, cache)
        assert len(list((cache / copies.FOLDER).glob("*.json"))) == 2

    def test_no_code_is_run(self, one: TrialConfig, cache: Path) -> None:
        """The arrays are in safetensors, whose first bytes are the length of a JSON head."""
        (path,) = (cache / copies.FOLDER).glob("*.safetensors")
        raw = path.read_bytes()
        head = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        assert {"train.labels", "train.ids", "words"} <= set(head)
        assert one.path is not None
        assert len(list(path.parent.iterdir())) == 2


class TestCommand:
    """`foretune data warm`, and the module for Jobs."""

    def test_warm(self, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It says what it wrote, and the second time that it was there."""
        where = folder(tmp_path / "data", "image")
        call = ["data", "warm", "--dataset", "mnist", "--data", str(where), "--cache", str(cache)]
        assert run(call) == COMPLETE
        assert capsys.readouterr().out.endswith("MiB) written\n")
        assert run(call) == COMPLETE
        assert capsys.readouterr().out.endswith("was there\n")

    def test_trouble(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Data that are not there, and a cache that can't be written, are one line each."""
        call = ["data", "warm", "--dataset", "mnist", "--data"]
        assert run([*call, str(tmp_path / "no"), "--cache", str(tmp_path / "c")]) == FAILED
        (tmp_path / "file").write_text("")
        where = folder(tmp_path / "data", "image")
        assert run([*call, str(where), "--cache", str(tmp_path / "file")]) == BAD_INPUT
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2
        assert "is no folder" in told[0]
        assert "Not a directory" in told[1] or "File exists" in told[1]

    @pytest.mark.slow
    def test_from_the_hub(
        self, make_config: Make, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a folder the library loads it, and trials without a folder find the copy by the hub's name."""
        import datasets as library

        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "built"))
        hub = folder(tmp_path / "hub", "text")
        source = data.datasets.Source(str(hub), "text", ("validation", "test"))
        monkeypatch.setitem(data.datasets.SOURCES, "sst2", source)
        one = make_config(workload={"model": "cnn", "dataset": "sst2"})
        plain = data.load(one)
        assert "written" in warm.warm("sst2", None, cache)
        monkeypatch.setattr(data.datasets, "_read", None)
        assert same(data.load(one), plain)

    @pytest.mark.slow
    def test_a_trial_without_readers(self, make_config: Make, tmp_path: Path, cache: Path) -> None:
        """A trial that reads a copy loads neither the library of the files nor the hub's."""
        one = chosen(make_config, "imdb", folder(tmp_path / "data", "text"))
        argv = ["--dataset", "imdb", "--data", str(one.path), "--cache", str(cache)]
        assert warm.main(argv) == 0
        look = (
            "import sys\nfrom foretune_trainer.__main__ import main\n"
            "code = main(sys.argv[1:])\n"
            "print(code, *sorted({'datasets', 'pyarrow', 'pandas'} & set(sys.modules)), file=sys.stderr)"
        )
        options = ["--model", "cnn", "--dataset", "imdb", "--data", str(one.path)]
        done = subprocess.run(
            [sys.executable, "-c", look, *options, "--set", "epochs=1"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.split() == ["0"]
        assert "test_accuracy=" in done.stdout
