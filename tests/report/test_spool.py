"""The spool: bounded, and readable after any death of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from foretune_report.spool import Spool, encode, leftovers, read

if TYPE_CHECKING:
    from pathlib import Path


def add(spool: Spool, count: int, size: int = 10) -> None:
    for _ in range(count):
        seq = spool.take_seq()
        spool.put(seq, encode({"seq": seq, "trial": "j/0", "x": "y" * size}))


def save(spool: Spool) -> None:
    content, whole = spool.unsaved()
    spool.save(content, whole=whole)


def test_bound() -> None:
    """Beyond its limit the oldest reports are dropped and counted."""
    spool = Spool(None, limit_bytes=1000)
    add(spool, 100, size=80)
    assert spool.dropped + len(spool) == 100
    assert 5 <= len(spool) <= 10
    assert max(spool.batch(10**6, 1000)) == 99


def test_one_report_larger_than_a_body_is_still_sent() -> None:
    """A batch has at least one report, so that nothing blocks the queue for ever."""
    spool = Spool(None)
    add(spool, 2, size=5000)
    assert list(spool.batch(100, 10)) == [0]


def test_file_stays_small(tmp_path: Path) -> None:
    """A long outage does not let the file grow beyond a few times the limit."""
    path = tmp_path / "reports-0-p.jsonl"
    spool = Spool(path, limit_bytes=2000)
    for _ in range(300):
        add(spool, 1, size=100)
        save(spool)
    assert path.stat().st_size < 3 * 2000
    kept, following = read(path)
    assert following == 300
    assert kept[-1]["seq"] == 299


def test_empty_again(tmp_path: Path) -> None:
    """When all is acknowledged the file keeps the next number, and is not written again and again."""
    path = tmp_path / "reports-0-p.jsonl"
    spool = Spool(path)
    add(spool, 5)
    save(spool)
    for seq in range(5):
        spool.remove(seq)
    save(spool)
    assert read(path) == ([], 5)
    assert spool.unsaved() == (b"", False)
    assert Spool(path).take_seq() == 5


@given(cut=st.integers(min_value=0, max_value=400))
def test_torn_file(tmp_path_factory: object, cut: int) -> None:
    """However short the file was cut, the whole lines before the cut are read."""
    path = tmp_path_factory.mktemp("torn") / "reports-0-p.jsonl"  # type: ignore[attr-defined]
    spool = Spool(path)
    add(spool, 6)
    save(spool)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) - min(cut, len(raw))])
    kept, _ = read(path)
    whole = path.read_bytes().count(b"\n") - 1
    assert [record["seq"] for record in kept][: max(0, whole)] == list(range(max(0, whole)))


def test_number_is_saved_before_it_is_used(tmp_path: Path) -> None:
    """A number taken while the file is written is not taken for saved."""
    path = tmp_path / "reports-0-p.jsonl"
    spool = Spool(path)
    add(spool, 1)
    late = spool.take_seq()
    save(spool)
    spool.put(late, encode({"seq": late}))
    save(spool)
    assert [record["seq"] for record in read(path)[0]] == [0, late]


def test_full_disk_and_back(tmp_path: Path) -> None:
    """After a failed write everything is written once the disk takes it again."""
    path = tmp_path / "folder" / "reports-0-p.jsonl"
    spool = Spool(path)
    add(spool, 2)
    try:
        save(spool)
    except FileNotFoundError:
        path.parent.mkdir()
    add(spool, 1)
    save(spool)
    assert [record["seq"] for record in read(path)[0]] == [0, 1, 2]


def test_leftovers_are_of_this_trial(tmp_path: Path) -> None:
    """Files of other trials in the same folder are not taken over."""
    (tmp_path / "reports-0-a.jsonl").write_bytes(encode({"seq": 1, "trial": "j/0"}))
    (tmp_path / "reports-1-b.jsonl").write_bytes(encode({"seq": 0, "trial": "j/0", "attempt": 1}))
    (tmp_path / "reports-0-c.jsonl").write_bytes(encode({"seq": 5, "trial": "j/1"}))
    records, _ = leftovers(tmp_path, tmp_path / "reports-2-d.jsonl", "j/0")
    assert [(record.get("attempt", 0), record["seq"]) for record in records] == [(0, 1), (1, 0)]
