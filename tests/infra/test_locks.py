"""The lock of the light image: what is told of one that does not fit."""

from __future__ import annotations

import re

from scripts import locks


def test_the_lock_fits_the_project() -> None:
    """Everything that is needed, at the versions of constraints.txt, with hashes."""
    assert locks.problems(locks.FILE.read_text("utf-8")) == []


def test_what_does_not_fit_is_named() -> None:
    """A forgotten package, another version, and one without a hash."""
    text = locks.FILE.read_text("utf-8")
    version = locks.locked(text)["kopf"][0]
    assert "kopf: needed, but not locked" in locks.problems(re.sub(r"(?m)^kopf==", "fork==", text))
    other = locks.problems(text.replace(f"kopf=={version}", "kopf==0.1"))
    assert other == [f"kopf: locked at 0.1, constraints.txt says {version}"]
    bare = re.sub(
        rf"kopf=={re.escape(version)} \\\n(    --hash=\S+( \\)?\n)+", f"kopf=={version}\n", text
    )
    assert locks.problems(bare) == ["kopf: has no hash"]
