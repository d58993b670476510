"""The account of skipped tests, which decides whether CI is green."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GREEN = "def test(): pass\n"
GPU = "import pytest\ndef test_gpu(): pytest.skip('GPU: none here')\n"
HAMMER = """
import pytest
@pytest.mark.skipif(True, reason='no hammer')
def test_mark(): pass
@pytest.fixture
def nail(): pytest.skip('no nail')
def test_fixture(nail): pass
def test_call(): pytest.skip('no hammer')
"""
MODULE = "import pytest\npytest.skip('no hammer', allow_module_level=True)\n"


def run(tmp_path: Path, files: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our hooks on these test files."""
    for number, text in enumerate(files):
        (tmp_path / f"test_{number}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FORETUNE", "PYTEST"))}
    return subprocess.run(
        [*command, "-c", "pytest.ini", "."],
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "last", "code"),
    [
        ([GREEN, GPU], "skipped: 1 (GPU: none here x 1)", 0),
        ([GREEN, GPU, HAMMER], "skipped: 4 (GPU: none here x 1; no hammer x 2; no nail x 1)", 1),
        ([GREEN, MODULE], "skipped: 1 (no hammer x 1)", 1),
    ],
    ids=["gpu", "tests", "module"],
)
def test_a_skip_fails_ci_unless_a_gpu_is_missing(tmp_path, files, last, code):
    """Each skip is counted with its reason; FORETUNE_NO_SKIPS=1 makes a failure of all but a GPU's."""
    done = run(tmp_path, files, FORETUNE_NO_SKIPS="1")
    assert done.stdout.splitlines()[-1] == last, done.stdout + done.stderr
    assert done.returncode == code


@pytest.mark.slow
def test_a_skip_is_no_failure_without_the_switch(tmp_path):
    """A developer's machine may lack a tool: the session is green and says what was skipped."""
    done = run(tmp_path, [GREEN, HAMMER])
    assert done.stdout.splitlines()[-1] == "skipped: 3 (no hammer x 2; no nail x 1)"
    assert done.returncode == 0
