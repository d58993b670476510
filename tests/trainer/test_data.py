"""Data sets: what ships, what is mounted, what is made, and how all are split."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune import contract
from foretune.contract import ExitCode
from foretune_trainer import config, data
from foretune_trainer.data import datasets, words
from foretune_trainer.errors import BadConfigError, DataUnreachableError, TrainerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foretune_trainer.config import TrialConfig

    Make = Callable[..., TrialConfig]


def workload(dataset: str, path: Path | None = None, **extras: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"model": "cnn", "dataset": dataset, "extras": extras}
    return found if path is None else {**found, "path": str(path)}


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def sentences(count: int) -> dict[str, Any]:
    labels = [n % 2 for n in range(count)]
    return {"text": [f"word{label} number {n}" for n, label in enumerate(labels)], "label": labels}


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn(make_config: Make) -> None:
    """The shipped file has every pixel and label of its source."""
    from sklearn.datasets import load_digits

    ours, theirs = pq.read_table(datasets.DIGITS), load_digits()
    pixels = np.frombuffer(b"".join(ours["image"].to_pylist()), np.uint8).reshape(-1, 8, 8)
    assert (pixels == theirs.images).all()
    assert (ours["label"].to_numpy() == theirs.target).all()
    found = data.load(make_config(workload=workload("digits")))
    assert (found.kind, found.classes) == ("image", 10)
    assert (len(found.train), len(found.valid), len(found.test)) == (1299, 143, 355)
    assert found.train.inputs.shape[1:] == (1, 8, 8)


def test_every_data_set_has_a_source() -> None:
    """What a data set holds is said the same way wherever it is said."""
    assert tuple(config.KINDS) == contract.BUILTIN_DATASETS
    assert {"digits", *datasets.SOURCES} == set(config.KINDS)
    for name, source in datasets.SOURCES.items():
        assert source.column == config.KINDS[name]
    assert {one for models in config.NATURAL.values() for one in models} == set(
        contract.BUILTIN_MODELS
    )


def test_validation_is_held_out_of_train(make_config: Make) -> None:
    """Validation has a tenth of each class of train, nothing of the test, whatever the trial's seed."""
    first = data.load(make_config(seed=1, workload=workload("digits")))
    second = data.load(make_config(seed=2, workload=workload("digits")))
    assert (first.valid.inputs == second.valid.inputs).all()
    assert np.bincount(first.valid.labels).min() >= 13
    rows = {
        part: {row.tobytes() for row in getattr(first, part).inputs}
        for part in ("train", "valid", "test")
    }
    assert not rows["valid"] & rows["test"]
    assert not rows["valid"] & rows["train"]


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(2, 15), min_size=2, max_size=5),
    seed=st.integers(0, 100),
    fraction=st.floats(0.01, 0.5),
)
def test_split_is_stratified(counts: list[int], seed: int, fraction: float) -> None:
    """Each class has its share on both sides, and the two sides are everything."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held = datasets.split(labels, fraction)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert np.bincount(labels[held]).tolist() == [max(1, round(fraction * n)) for n in counts]


def test_a_class_with_one_example() -> None:
    """A class that can't be on both sides is refused by name."""
    with pytest.raises(BadConfigError, match="class 3 has one example"):
        datasets.split(np.asarray([0, 0, 3, 1, 1]), 0.1)


class TestFolder:
    """A mounted folder of parquet."""

    def test_texts(self, make_config: Make, tmp_path: Path) -> None:
        """Train, validation held out of it, and the public validation split of SST-2 as test."""
        write(tmp_path / "train.parquet", **sentences(100))
        write(tmp_path / "validation.parquet", **sentences(20))
        write(tmp_path / "test.parquet", sentence=["hidden"] * 4, label=[-1] * 4)
        found = data.load(make_config(workload=workload("sst2", tmp_path)))
        assert (len(found.train), len(found.valid), len(found.test)) == (90, 10, 20)
        assert (found.kind, found.classes) == ("text", 2)
        assert found.train.inputs.max() < found.vocabulary

    def test_hub_layout(self, make_config: Make, tmp_path: Path) -> None:
        """Shards in a data folder and the hub's column names, as `git clone` of the hub gives them."""
        for shard in range(2):
            rows = sentences(30)
            write(
                tmp_path / "data" / f"train-0000{shard}-of-00002.parquet",
                idx=list(range(30)),
                sentence=rows["text"],
                label=rows["label"],
            )
        write(tmp_path / "data" / "validation-00000-of-00001.parquet", **sentences(10))
        assert len(data.load(make_config(workload=workload("sst2", tmp_path))).train) == 54

    @pytest.mark.slow
    def test_encoded_images(self, make_config: Make, tmp_path: Path) -> None:
        """PNG in the hub's struct column is the same as raw bytes."""
        from PIL import Image

        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        labels = [n % 4 for n in range(40)]
        encoded = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        raw = [image.tobytes() for image in pixels]
        for name, column in (("png", encoded), ("raw", raw)):
            write(tmp_path / name / "train.parquet", image=column, label=labels)
            write(tmp_path / name / "test.parquet", image=column, label=labels)
        png, plain = (
            data.load(make_config(workload=workload("mnist", tmp_path / name)))
            for name in ("png", "raw")
        )
        assert (png.train.inputs == plain.train.inputs).all()
        assert png.fingerprint == plain.fingerprint

    def test_fingerprint(self, make_config: Make, tmp_path: Path) -> None:
        """Another label is another data set; how the rows are cut into files is not."""
        rows = sentences(40)
        write(tmp_path / "a" / "train.parquet", **rows)
        write(tmp_path / "b" / "train-0.parquet", text=rows["text"][:7], label=rows["label"][:7])
        write(tmp_path / "b" / "train-1.parquet", text=rows["text"][7:], label=rows["label"][7:])
        write(
            tmp_path / "c" / "train.parquet",
            text=rows["text"],
            label=[1 - rows["label"][0], *rows["label"][1:]],
        )
        for name in "abc":
            write(tmp_path / name / "validation.parquet", **sentences(10))
        first, second, third = (
            data.load(make_config(workload=workload("sst2", tmp_path / name))).fingerprint
            for name in "abc"
        )
        assert first == second
        assert first != third

    def test_missing(self, make_config: Make, tmp_path: Path) -> None:
        """A data set that is not there ends with 74 and says what was tried."""
        for path, said in ((tmp_path / "no", "is no folder"), (tmp_path, "does not hold")):
            with pytest.raises(DataUnreachableError, match=said) as caught:
                data.load(make_config(workload=workload("mnist", path)))
            assert "train.parquet, test or validation.parquet" in str(caught.value)
            assert caught.value.code is ExitCode.DATA_UNREACHABLE

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"words": ["a", "b"] * 5, "label": [0, 1] * 5}, "none of text, sentence"),
            ({"text": ["a", "b"] * 5, "class": [0, 1] * 5}, "none of label"),
            ({"text": [], "label": []}, "has no examples"),
            ({"text": ["a", "b"] * 5, "label": [-1] * 10}, "hidden labels"),
        ],
    )
    def test_unfit(
        self, make_config: Make, tmp_path: Path, columns: dict[str, Any], said: str
    ) -> None:
        """Data that can never be trained on is a wrong configuration, not a passing failure."""
        for name in ("train", "validation"):
            write(tmp_path / f"{name}.parquet", **columns)
        with pytest.raises(BadConfigError, match=said):
            data.load(make_config(workload=workload("sst2", tmp_path)))

    def test_not_parquet(self, make_config: Make, tmp_path: Path) -> None:
        """A file that only has the name of parquet is a wrong configuration."""
        for name in ("train", "validation"):
            (tmp_path / f"{name}.parquet").write_bytes(b"text,label\n")
        with pytest.raises(BadConfigError, match="is no parquet file"):
            data.load(make_config(workload=workload("sst2", tmp_path)))


@pytest.mark.slow
class TestHub:
    """The library `datasets`, offline."""

    def test_parquet_repository(
        self, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A repository of parquet files is loaded through the library itself."""
        import datasets as library

        monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        write(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", **sentences(60))
        write(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", **sentences(10))
        source = datasets.Source(str(tmp_path / "hub"), "text", ("validation", "test"))
        monkeypatch.setitem(datasets.SOURCES, "sst2", source)
        found = data.load(make_config(workload=workload("sst2")))
        assert (len(found.train), len(found.valid), len(found.test)) == (54, 6, 10)

    def test_another_folder(
        self, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder of CSV files, or of images named by their class, is read as the library reads it."""
        import datasets as library
        from PIL import Image

        monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        table, pictures = tmp_path / "table", tmp_path / "pictures"
        table.mkdir()
        for name, count in (("train", 40), ("validation", 10)):
            rows = "".join(f"word{n % 2} number {n},{n % 2}\n" for n in range(count))
            (table / f"{name}.csv").write_text(f"text,label\n{rows}")
            for n in range(count):
                path = pictures / name / f"class{n % 2}" / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((6, 6, 3), n, np.uint8)).save(path)
        for dataset, folder in (("sst2", table), ("cifar10", pictures)):
            found = data.load(make_config(workload=workload(dataset, folder)))
            assert (len(found.train), len(found.valid), len(found.test)) == (36, 4, 10)
            assert found.classes == 2
        (table / "train.csv").write_text("text,label\na,good\nb,bad\n")
        with pytest.raises(BadConfigError, match="labels must be whole numbers"):
            data.load(make_config(workload=workload("sst2", table)))

    def test_nothing_to_read(self, make_config: Make, tmp_path: Path) -> None:
        """A folder that not even the library can read ends with 74."""
        (tmp_path / "notes.bin").write_bytes(b"nothing")
        with pytest.raises(DataUnreachableError, match="neither a folder with data"):
            data.load(make_config(workload=workload("sst2", tmp_path)))

    def test_offline(self, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without network and cache the end is 74, and the message names hub, cache and the way out."""
        import datasets as library
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(DataUnreachableError, match=r"ylecun/mnist.*cache.*workload\.path"):
            data.load(make_config(workload=workload("mnist")))


class TestSynthetic:
    """Data made from its name."""

    @pytest.mark.parametrize("kind", ["image", "text"])
    def test_is_always_the_same(self, make_config: Make, kind: str) -> None:
        """Two trials of different seeds see the same data, of the size that the name says."""
        first, second = (
            data.load(make_config(seed=seed, workload=workload(f"synthetic:{kind}:3:300")))
            for seed in (1, 2)
        )
        assert first.fingerprint == second.fingerprint
        assert (first.kind, first.classes) == (kind, 3)
        assert len(first.train) + len(first.valid) + len(first.test) == 300

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("synthetic:image:1:100", "at least 2 classes"),
            ("synthetic:text:10:50", "20 examples of each"),
            ("synthetic:audio:3:300", "synthetic:<image|text>"),
            ("synthetic:image:3", "must be one of digits"),
        ],
    )
    def test_impossible(self, make_config: Make, name: str, said: str) -> None:
        """Names that describe no data set are refused with what would be right."""
        with pytest.raises(TrainerError, match=said) as caught:
            data.load(make_config(workload=workload(name)))
        assert caught.value.code is ExitCode.BAD_CONFIG


class TestWords:
    """Texts as token ids."""

    def test_encoding(self) -> None:
        """Rows start with START, unknown words have an id, long texts are cut, short ones padded."""
        book = words.Vocabulary.of(["b a", "a c!"], 5)
        assert book.ids == {"a": 3, "!": 4}
        rows = book.encode(["A! x", "", "a a a a a a"], 4)
        assert rows.tolist() == [[2, 3, 4, 1], [2, 0, 0, 0], [2, 3, 3, 3]]

    @settings(max_examples=50, deadline=None)
    @given(texts=st.lists(st.text(max_size=40), max_size=6), length=st.integers(1, 12))
    def test_any_text(self, texts: list[str], length: int) -> None:
        """Any text at all becomes ids within the vocabulary and at most `length` of them."""
        book = words.Vocabulary.of(texts, 16)
        rows = book.encode(texts, length)
        assert rows.shape[0] == len(texts)
        assert rows.shape[1] <= length
        assert (rows < book.size).all()
        assert (rows[:, 0] == words.START).all()
