"""A prior's two files: the same tasks give the same bytes, and nothing unsound is read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.support.designs import MIXED, completed, failed, spread
from tests.support.sources import source

from foretune.app import artefact
from foretune.app.artefact import (
    BEST_ROWS,
    HEADER,
    MAX_ROWS,
    TENSORS,
    Prior,
    brief,
    digest,
    packed,
    read,
    unpacked,
)
from foretune.app.starter import starter_tasks
from foretune.domain.space import Float, Space
from foretune.domain.trial import EndReason, Trial, TrialState
from foretune.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foretune.domain.history import SourceTask


def task(name: str = "team/a", count: int = 30, seed: int = 0) -> SourceTask:
    """A task over all kinds of parameter, with two failures."""
    found = source(name, MIXED, spread, count=count, seed=seed)
    ends = [EndReason.OUT_OF_MEMORY, EndReason.DIVERGED]
    bad = [failed(count + i, found.trials[i].params, end) for i, end in enumerate(ends)]
    kept = (replace(found.trials[0], cost=12.5, value_sd=0.25), *found.trials[1:])
    return replace(found, trials=(*kept, *bad), space=MIXED, context={"dataset": "digits"})


def files(*tasks: SourceTask, **more: Any) -> dict[str, bytes]:
    """The bytes of a prior."""
    return packed(tasks or (task(),), version="1", **more)


def rows(found: SourceTask) -> list[Any]:
    """What must survive of each trial, in an order of its own."""
    told = [
        (sorted(t.params.items()), t.value, t.value_sd, t.cost, t.state, t.reason)
        for t in found.trials
    ]
    return sorted(told, key=repr)


def test_a_prior_reads_back_as_it_was() -> None:
    """Parameters of every kind with their types, values, deviations, costs, ends, space and context survive."""
    before = task()
    prior = unpacked(files(before, favour=0.5, licences={"team/a": "MIT"}), "here")
    (after,) = prior.tasks
    assert rows(after) == rows(before)
    assert {type(t.params["layers"]) for t in after.trials} == {int}
    assert (after.name, after.objective, after.space) == (before.name, before.objective, MIXED)
    assert after.context == {"dataset": "digits"}
    assert (prior.favour, prior.licences, prior.version) == (0.5, ("MIT",), "1")
    assert prior.digests == (digest(before),)
    assert prior.counts == (32,)


def test_the_same_tasks_give_the_same_bytes() -> None:
    """Neither the order of tasks nor that of trials matters; another value makes another prior."""
    a, b = task("a"), task("b", seed=1)
    turned = replace(b, trials=b.trials[::-1])
    assert files(a, b) == files(turned, a)
    changed = replace(a.trials[3], value=0.125)
    other = replace(a, trials=(*a.trials[:3], changed, *a.trials[4:]))
    assert unpacked(files(other, b), "x").id != unpacked(files(a, b), "x").id


def test_a_large_task_keeps_its_best_rows_and_its_middle() -> None:
    """Of many rows the best ones stay, and the middle of what stays is near the task's."""
    large = source("large", MIXED, spread, count=1000)
    short = brief(large)
    assert short is not None
    values = sorted((t.value for t in large.trials), reverse=True)
    kept = sorted((t.value for t in short.trials), reverse=True)
    assert len(kept) == MAX_ROWS
    assert kept[:BEST_ROWS] == values[:BEST_ROWS]
    assert values[600] < kept[MAX_ROWS // 2] < values[350]


def test_a_task_with_too_few_values_is_left_out() -> None:
    """Four values teach nothing; without any task there is no prior."""
    small = source("small", MIXED, spread, count=4)
    assert len(unpacked(files(task(), small), "x").tasks) == 1
    with pytest.raises(InvalidInputError, match="no task has 5 trials"):
        packed([small], version="1")


def test_ends_that_teach_nothing_are_left_out() -> None:
    """A lost node, a missing metric, a value that is not finite: none of them is kept."""
    lost = Trial(
        job_uid="j",
        index=90,
        params=task().trials[0].params,
        state=TrialState.FAILED,
        reason=EndReason.NODE_LOST,
        config_hash="",
    )
    odd = replace(completed(91, task().trials[1].params, 1.0), value=float("nan"))
    with_them = replace(task(), trials=(*task().trials, lost, odd))
    short = brief(with_them)
    assert short is not None
    assert rows(short) == rows(task())


# -------------------------------------------------------------------- what is refused
def rewritten(change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> dict[str, bytes]:
    """A prior whose header was changed, by someone who also made the checksum right (or not)."""
    made = files()
    header = json.loads(made[HEADER])
    change(header)
    if sign:
        header.pop("sha256", None)
        header["sha256"] = artefact._checksum(header)
    return {HEADER: json.dumps(header).encode(), TENSORS: made[TENSORS]}


def with_tensors(change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    """A prior whose numbers were changed, every checksum made right."""
    arrays = artefact.load(files()[TENSORS])
    change(arrays)
    numbers = save(arrays)
    made = rewritten(lambda h: h.update(tensors=hashlib.sha256(numbers).hexdigest()))
    return {HEADER: made[HEADER], TENSORS: numbers}


def flip(content: bytes) -> bytes:
    """One bit changed in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


TAMPERED = {
    "a bit of the numbers": (
        lambda: files() | {TENSORS: flip(files()[TENSORS])},
        "is not the file",
    ),
    "the header without its checksum": (
        lambda: rewritten(lambda h: h.update(favour=1.5), sign=False),
        "its checksum is wrong",
    ),
    "no checksum": (lambda: rewritten(lambda h: h.pop("sha256"), sign=False), "checksum"),
    "another format": (lambda: rewritten(lambda h: h.update(format=2)), "format 2"),
    "no JSON": (lambda: files() | {HEADER: b"\x80\x04pickle"}, "not JSON"),
    "deep JSON": (lambda: files() | {HEADER: b"[" * 100_000}, "not JSON"),
    "a list": (lambda: files() | {HEADER: b"[]"}, "format None"),
    "a number that is none": (
        lambda: files() | {HEADER: b'{"format": 1, "favour": NaN}'},
        "NaN is no number",
    ),
    "an infinite number": (
        lambda: files() | {HEADER: b'{"format": 1, "favour": 1e999}'},
        "not JSON",
    ),
    "deep figures": (
        lambda: files() | {HEADER: b'{"format": 1, "figures": ' + b"[" * 900 + b"]" * 900 + b"}"},
        "checksum|not JSON|figures",
    ),
    "a name that moves the cursor": (
        lambda: rewritten(lambda h: h["tasks"][0].update(name="a\x1b[2Jb")),
        "can't be shown",
    ),
    "an unknown field": (lambda: rewritten(lambda h: h.update(run="rm -rf")), "run: Extra"),
    "too large a favour": (lambda: rewritten(lambda h: h.update(favour=9.0)), "favour"),
    "no tasks": (lambda: rewritten(lambda h: h.update(tasks=[])), "tasks"),
    "more rows than numbers": (
        lambda: rewritten(lambda h: h["tasks"][0].update(rows=33)),
        "other shapes",
    ),
    "fewer columns": (lambda: rewritten(lambda h: h["tasks"][0]["columns"].pop()), "other shapes"),
    "a bad space": (
        lambda: rewritten(lambda h: h["tasks"][0].update(space={"lr": {"min": 2, "max": 1}})),
        "team/a.*lr",
    ),
    "an option that is not there": (
        lambda: rewritten(
            lambda h: next(c for c in h["tasks"][0]["columns"] if c["options"])["options"].clear()
        ),
        "team/a",
    ),
    "an infinite parameter": (
        lambda: with_tensors(lambda a: a["params"].__setitem__(0, np.inf)),
        "not finite|not whole",
    ),
    "a missing value": (
        lambda: with_tensors(lambda a: a["values"].__setitem__(0, np.nan)),
        "does not fit how it ended",
    ),
    "an end that is none": (lambda: with_tensors(lambda a: a["ends"].__setitem__(0, 99)), "team/a"),
    "a negative cost": (lambda: with_tensors(lambda a: a["costs"].__setitem__(0, -1.0)), "cost"),
    "another type of number": (
        lambda: with_tensors(lambda a: a.update(values=a["values"].astype(np.float32))),
        "other shapes",
    ),
    "a tensor too many": (lambda: with_tensors(lambda a: a.update(x=a["ends"])), "other shapes"),
    "no safetensors": (
        lambda: (
            rewritten(lambda h: h.update(tensors=hashlib.sha256(b"PK").hexdigest()))
            | {TENSORS: b"PK"}
        ),
        TENSORS,
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_refused_in_one_line(what: str) -> None:
    """Bytes, checksums, shapes, versions, values: one line says what is wrong, and where."""
    make, said = TAMPERED[what]
    with pytest.raises(InvalidInputError, match=said) as caught:
        unpacked(make(), "/there")
    text = str(caught.value)
    assert text.startswith("prior: /there: ")
    assert "\n" not in text


def put(folder: Path, made: dict[str, bytes]) -> Path:
    """Write the files of a prior."""
    folder.mkdir(exist_ok=True)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_prior_is_read_from_a_folder(tmp_path: Path) -> None:
    """What was packed is what a folder gives."""
    assert read(put(tmp_path / "p", files())) == unpacked(files(), "x")


def test_only_plain_files_of_a_bounded_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file, a link to another one, a pipe that never ends and a huge file are refused at once."""
    folder = put(tmp_path / "p", files())
    (folder / TENSORS).unlink()
    with pytest.raises(InvalidInputError, match="there is no"):
        read(folder)
    (folder / TENSORS).symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match="can't be read"):
        read(folder)
    (folder / TENSORS).unlink()
    os.mkfifo(folder / TENSORS)
    with pytest.raises(InvalidInputError, match="not a plain file"):
        read(folder)
    monkeypatch.setattr(artefact, "_LIMITS", {HEADER: 100, TENSORS: 100})
    with pytest.raises(InvalidInputError, match=r"larger than 100 bytes"):
        read(put(tmp_path / "q", files()))


def test_a_prior_that_would_be_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read again is not written."""
    monkeypatch.setattr(artefact, "_LIMITS", {HEADER: 100, TENSORS: 100})
    with pytest.raises(InvalidInputError, match="would be larger"):
        files()


def test_rows_that_lack_a_parameter_lack_it_afterwards() -> None:
    """A conditional parameter stays absent where it was."""
    space = Space((Float(name="x", low=0.0, high=1.0),))
    made = source("t", space, lambda p: p["x"], count=8)
    some = replace(made.trials[0], params={**made.trials[0].params, "y": "on"})
    (after,) = unpacked(files(replace(made, trials=(some, *made.trials[1:]))), "x").tasks
    assert sum("y" in t.params for t in after.trials) == 1


def test_the_starter_ships_and_is_small() -> None:
    """The package has a sound prior of less than 2 MB, with permissive licences only."""
    from foretune.app.starter import FOLDER, starter

    prior = starter()
    assert isinstance(prior, Prior)
    assert len(prior.tasks) > 50
    assert set(prior.licences) <= {"Apache-2.0", "MIT", "BSD-3-Clause"}
    assert sum((FOLDER / name).stat().st_size for name in (HEADER, TENSORS)) < 2 * 2**20
    assert prior.figures["card"]["limits"]
    assert all(found.name.startswith("starter:") for found in starter_tasks())
