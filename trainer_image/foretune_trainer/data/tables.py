"""Reading: parquet of the package, a mounted folder of parquet, or the Hugging Face hub."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from foretune_trainer.data.words import Cut
from foretune_trainer.errors import BadConfigError, DataUnreachableError

if TYPE_CHECKING:
    import pyarrow as pa


Shape = tuple[int, int, int]

COLUMNS: Final = {"image": ("image", "img"), "text": ("text", "sentence", "content")}
"""Names under which examples are looked for, by what they are."""

LABELS: Final = ("label", "labels")
"""Names under which labels are looked for."""


@dataclass(frozen=True)
class Table:
    """One split as it was read: images or texts, and their labels."""

    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    """`n x c x h x w`; empty for texts."""
    texts: Sequence[str] = ()
    cut: Cut | None = None
    """The words of the texts, where they were split before."""

    @property
    def kind(self) -> str:
        """Return `image` or `text`."""
        return "text" if len(self.texts) else "image"

    def first(self, limit: int | None) -> Table:
        """Return the first `limit` examples, or all."""
        cut = self.cut.first(limit) if self.cut is not None else None
        return Table(self.labels[:limit], self.images[:limit], self.texts[:limit], cut)


NO_IMAGES: Final = np.zeros((0, 0, 0, 0), np.uint8)


def with_splits(path: Path, shape: Shape) -> tuple[Table, Table]:
    """Return train and test of a file of images that has them in a column `split`."""
    read = _parquet(path)
    whole, names = to_table(read, "image", shape, str(path)), np.asarray(read["split"].to_pylist())
    train, test = (
        Table(whole.labels[names == name], whole.images[names == name])
        for name in ("train", "test")
    )
    return train, test


def _parquet(path: Path) -> pa.Table:
    """Return a file's content, without pandas, which `read_table` would import."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - neither made data nor a copy of tensors needs it

    with pq.ParquetFile(path) as file:
        return file.read()


def from_folder(
    folder: Path, column: str, tests: Sequence[str], shape: Shape | None
) -> tuple[Table, Table]:
    """Return train and test of a folder with a parquet file, or several, a split.

    Files are `<split>.parquet` or `<split>-*.parquet`, in the folder or in its `data` folder, as the hub
    lays them out. Another folder is left to the library `datasets`, which reads CSV, JSON and folders of
    images. Raises `DataUnreachableError` saying what was tried.
    """
    found = {name: _files(folder, name) for name in ("train", *tests)}
    test = next((name for name in tests if found[name]), None)
    if not found["train"] and folder.is_dir() and any(folder.iterdir()):
        return from_library(str(folder), column, tests, shape)
    if not found["train"] or test is None:
        what = "is no folder" if not folder.is_dir() else "does not hold the data set"
        tried = ", ".join(f"{name}.parquet" for name in ("train", " or ".join(tests)))
        raise DataUnreachableError(
            f"{folder} {what}: tried {tried} (also as <split>-*.parquet and in {folder / 'data'})"
        )
    return (
        to_table(_concatenated(found["train"]), column, shape, str(folder)),
        to_table(_concatenated(found[test]), column, shape, str(folder)),
    )


def _files(folder: Path, name: str) -> list[Path]:
    for place in (folder, folder / "data"):
        files = [*place.glob(f"{name}.parquet"), *sorted(place.glob(f"{name}-*.parquet"))]
        if files:
            return files
    return []


def _concatenated(files: Sequence[Path]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - as above

    tables = []
    for path in files:
        try:
            tables.append(_parquet(path))
        except pa.ArrowInvalid as error:
            raise BadConfigError(f"{path}: is no parquet file: {error}") from error
        except OSError as error:
            raise DataUnreachableError(f"{path}: {error}") from error
    return pa.concat_tables(tables, promote_options="permissive")


def from_library(
    name: str, column: str, tests: Sequence[str], shape: Shape | None
) -> tuple[Table, Table]:
    """Return train and test of a folder, of a data set of the hub, or of the hub's cache on this machine.

    Raises `DataUnreachableError` saying what was tried.
    """
    try:
        import datasets  # noqa: PLC0415 - takes a second, and is not needed for a mounted folder
    except ImportError as error:
        raise BadConfigError(
            "workload.dataset: the package `datasets` is not installed; set workload.path to a folder"
        ) from error
    try:
        loaded = datasets.load_dataset(name)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise DataUnreachableError(
            f"{name}: neither a folder with data, nor in the cache {datasets.config.HF_DATASETS_CACHE} nor on the hub: "
            f"{error}; workload.path (trial.builtin.path) takes a folder of parquet instead"
        ) from error
    test = next((one for one in tests if one in loaded), None)
    if "train" not in loaded or test is None:
        raise BadConfigError(f"{name}: has splits {', '.join(loaded)}, not train and {tests[0]}")
    train, held = (loaded[part].with_format("arrow")[:] for part in ("train", test))
    return to_table(train, column, shape, name), to_table(held, column, shape, name)


def to_table(table: pa.Table, column: str, shape: Shape | None, where: str) -> Table:
    """Return the examples and labels of an arrow table; raises `BadConfigError` for other columns."""
    # Through lists: arrow's own way to numpy imports pandas.
    try:
        labels = np.asarray(table[_column(table, LABELS, where)].to_pylist(), np.int64)
    except (TypeError, ValueError) as error:
        raise BadConfigError(f"{where}: labels must be whole numbers: {error}") from error
    values = table[_column(table, COLUMNS[column], where)]
    if column == "text":
        return Table(labels, NO_IMAGES, [text or "" for text in values.to_pylist()])
    return Table(labels, _images(values.to_pylist(), shape, where))


def _column(table: pa.Table, names: Sequence[str], where: str) -> str:
    for name in names:
        if name in table.column_names:
            return name
    has = ", ".join(table.column_names)
    raise BadConfigError(f"{where}: has columns {has}, but none of {', '.join(names)}")


def _images(values: Sequence[Any], shape: Shape | None, where: str) -> NDArray[np.uint8]:
    """Return `n x c x h x w` pixels of raw bytes or of encoded images (PNG, JPEG)."""
    blobs = [_bytes(value) for value in values]
    if shape is not None and all(len(blob) == shape[0] * shape[1] * shape[2] for blob in blobs):
        return np.frombuffer(bytearray().join(blobs), np.uint8).reshape(len(blobs), *shape)
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - only encoded images need it

    pixels = []
    for number, blob in enumerate(blobs):
        try:
            with Image.open(io.BytesIO(blob)) as image:
                grey = image.mode in ("1", "L", "I;16")
                array = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
        except (UnidentifiedImageError, OSError) as error:
            raise BadConfigError(f"{where}: image {number} can't be decoded: {error}") from error
        pixels.append(array[None] if grey else array.transpose(2, 0, 1))
    if len({image.shape for image in pixels}) != 1:
        raise BadConfigError(f"{where}: images must all have the same size and number of channels")
    return np.stack(pixels)


def _bytes(value: Any) -> bytes:
    """Return an image as bytes: as they are, or of the hub's column, which may only name a file."""
    if not isinstance(value, dict):
        return bytes(value)
    return bytes(value["bytes"]) if value["bytes"] is not None else Path(value["path"]).read_bytes()
