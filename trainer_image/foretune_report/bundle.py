"""The SDK as one folder for PYTHONPATH: `trial.inject` puts it into images that don't have it.

The folder holds this package, the contract, and the metadata by which Lightning finds its callback. It
runs with Python 3.8 and later, needs nothing else, and leaves a `foretune` that is installed usable.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import foretune
import foretune_report
from foretune import contract

ENTRY_POINTS: Final = """\
[pytorch_lightning.callbacks_factory]
foretune = foretune_report.lightning:factory

[lightning.pytorch.callbacks_factory]
foretune = foretune_report.lightning:unified_factory
"""
"""Those of pyproject.toml that a program of others may look for."""

INIT: Final = '''\
"""The part of Foretune that trials need; the rest is found where it is installed."""

from pkgutil import extend_path

__version__ = "{version}"
__path__ = extend_path(__path__, __name__)
'''


def copy(folder: Path) -> None:
    """Make `folder` the bundle; what it held before is replaced. Raises `OSError`.

    A folder that is there is kept, since it may be a mount: its content is replaced. Everybody may read
    the result, whatever the umask: a trial runs as another user than the one who copies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as made:
        _fill(Path(made))
        for old in [path for path in folder.iterdir() if path != Path(made)]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in Path(made).iterdir():
            new.rename(folder / new.name)


def _fill(folder: Path) -> None:
    package = Path(foretune_report.__file__).parent
    shutil.copytree(
        package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    (folder / "foretune").mkdir()
    source = Path(contract.__file__).read_text(encoding="utf-8")
    (folder / "foretune" / "contract.py").write_text(source, encoding="utf-8")
    init = INIT.format(version=foretune.__version__)
    (folder / "foretune" / "__init__.py").write_text(init, encoding="utf-8")
    metadata = folder / f"foretune-{foretune.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    about = f"Metadata-Version: 2.1\nName: foretune\nVersion: {foretune.__version__}\n"
    (metadata / "METADATA").write_text(about, encoding="utf-8")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
