"""The SDK as a folder: complete, readable by all, and fit for the Pythons that others use."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foretune.cli.main import run
from foretune.contract import parse_report_lines, sdk_python_path
from foretune_report import bundle

if TYPE_CHECKING:
    from tests.support.trials import Pod

ROOT = Path(__file__).parents[2]
OLDEST = (3, 8)
"""The Python that the SDK promises to run with."""

PROGRAM = """
from foretune_report import report
import foretune_report.exec, foretune_report.lightning, foretune_report.shims
reply = report(epoch=1, accuracy=0.5)
assert not reply.should_stop and f"{reply.action}" == "continue"
"""

INSTALLED = """
import foretune.contract, foretune.optimizer
print(foretune.contract.__file__, foretune.optimizer.__file__, sep="\\n")
"""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, made by the command of the init container."""
    folder = tmp_path_factory.mktemp("sdk")
    assert run(["sdk", "copy", str(folder)]) == 0
    return folder


def oldest() -> str:
    """Return an interpreter of `OLDEST`; skips without one."""
    name = "python{}.{}".format(*OLDEST)
    beside = Path.home().glob(".pyenv/versions/{}.{}.*/bin/python".format(*OLDEST))
    for candidate in (*map(str, beside), shutil.which(name)):
        if candidate is not None:
            said = subprocess.run([candidate, "--version"], capture_output=True, check=False)
            if said.returncode == 0:
                return candidate
    pytest.skip(f"{name} is not here, nor in ~/.pyenv")


def test_everybody_may_read_it(sdk: Path) -> None:
    """The trial's user is another one than that of the container that copies."""
    for path in sdk.rglob("*"):
        wanted = 0o555 if path.is_dir() else 0o444
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


def test_it_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """What an older version left is gone, the folder itself stays: it may be a mount."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    (tmp_path / ".hidden").touch()
    inode = tmp_path.stat().st_ino
    bundle.copy(tmp_path)
    assert tmp_path.stat().st_ino == inode
    assert {path.name for path in tmp_path.iterdir()} == {
        "foretune",
        "foretune_report",
        *(path.name for path in tmp_path.glob("foretune-*.dist-info")),
    }
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_folder_that_can_not_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2."""
    (tmp_path / "file").touch()
    assert run(["sdk", "copy", str(tmp_path / "file")]) == 2
    assert "file: File exists" in capsys.readouterr().err


def test_the_entry_points_are_the_packages_own(sdk: Path) -> None:
    """Lightning finds the same callbacks as where the package is installed."""
    (path,) = sdk.glob("*.dist-info/entry_points.txt")
    found = ConfigParser()
    found.read_string(path.read_text())
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {name: dict(found[name]) for name in found.sections()} == wanted


@pytest.mark.parametrize("path", ["foretune_report", "foretune"])
def test_the_syntax_is_old(sdk: Path, path: str) -> None:
    """Every file parses by the grammar of the oldest Python."""
    files = list((sdk / path).rglob("*.py"))
    assert files
    for file in files:
        ast.parse(file.read_text(), feature_version=OLDEST)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["oldest", "this"])
def test_it_runs(sdk: Path, pod, which: str) -> None:
    """A program with nothing but the folder on its path reports: with the oldest Python, and with this one."""
    python = oldest() if which == "oldest" else sys.executable
    here: Pod = pod()
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM],
        env={**here.env, "PYTHONPATH": str(sdk)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (report,) = parse_report_lines(done.stdout)
    assert report["metrics"] == {"accuracy": 0.5}


@pytest.mark.slow
def test_stand_ins_install_themselves(sdk: Path, pod) -> None:
    """With the startup folder on the path, a program written for another tool reports unchanged."""
    here: Pod = pod()
    program = "from ray import train; train.report({'auc': 0.7}); train.report({'auc': 0.8})"
    path = sdk_python_path(str(sdk), shims=True)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**here.env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = parse_report_lines(done.stdout)
    assert [(r["epoch"], r["metrics"]) for r in reports] == [(1, {"auc": 0.7}), (2, {"auc": 0.8})]


def test_an_installed_package_stays_whole(sdk: Path) -> None:
    """Before an installed `foretune` the folder brings the contract, and hides nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        env={**os.environ, "PYTHONPATH": f"{sdk}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    contract, optimizer = done.stdout.splitlines()
    assert contract.startswith(str(sdk))
    assert optimizer == str(ROOT / "operator" / "foretune" / "optimizer.py")
