"""The picture of the model in the docs is what the model says today."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from scripts import surrogate_picture

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = 1.0
"""How far a point may be from where it was drawn: other processors round otherwise."""


@pytest.mark.slow
def test_the_picture_of_the_model_is_fresh(tmp_path: Path) -> None:
    """Drawn anew, it has the same shapes at the same places."""
    surrogate_picture.main(tmp_path)
    kept, drawn = (
        (folder / surrogate_picture.NAME).read_text(encoding="utf-8")
        for folder in (surrogate_picture.TARGET, tmp_path)
    )
    number = r"-?\d+\.\d+"
    assert re.sub(number, "#", drawn) == re.sub(number, "#", kept)
    told = [[float(n) for n in re.findall(number, text)] for text in (kept, drawn)]
    assert told[1] == pytest.approx(told[0], abs=PIXELS)
