"""Built images for tests: what to build, when to build it again, and how to look into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from scripts.build_images import IMAGES, ROOT, Builder, Image, builder
from scripts.cache import cache, locked
from scripts.tools import Missing
from tests.support import container

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

INPUTS: Final = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "scripts/build_images.py",
    "scripts/image_base.sh",
    "scripts/requirements.py",
    "locks",
    "operator",
    "trainer_image",
)
"""All that decides what is in an image."""

KEPT: Final = 3
"""Unpacked images that stay in the cache: a run that goes on may still use an older one."""


def builder_or_skip() -> Builder:
    """Return the tool that builds images here; skips the test, or fails it where images are required."""
    tool = builder()
    if isinstance(tool, Missing):
        if os.environ.get("FORETUNE_REQUIRE_IMAGES") == "1":
            pytest.fail(f"FORETUNE_REQUIRE_IMAGES=1, but {tool.reason}")
        pytest.skip(tool.reason)
    return tool


def _files() -> Iterator[Path]:
    for name in INPUTS:
        path = ROOT / name
        if path.is_dir():
            yield from (p for p in sorted(path.rglob("*")) if p.is_file())
        else:
            yield path


def inputs_key() -> str:
    """Return a hash of all that the images are built from."""
    digest = hashlib.sha256(os.environ.get("TORCH", "").encode())
    for path in _files():
        if "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Built:
    """An image that was built, and its file system unpacked."""

    tag: str
    config: dict[str, Any]
    size: int
    root: Path

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it as a restricted pod would."""
        env = dict(pair.split("=", 1) for pair in self.config.get("Env") or [])
        return container.run(self.root, argv, env=env)

    def start(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run its entry point with arguments."""
        return self.run(*(self.config.get("Entrypoint") or []), *args)


def built(image: Image, folder: Path, *, tag: str, dockerfile: Path | None = None) -> Built:
    """Build an image and unpack it below `folder`; raises `BuildError`."""
    tool = builder_or_skip()
    tool.build(image, tag=tag, dockerfile=dockerfile)
    root = folder / "root"
    root.mkdir()
    tool.unpack(tag, root)
    return Built(tag, tool.config(tag), tool.size(tag), root)


def light_image() -> Built:
    """Return the light image of the working tree, unpacked in the cache.

    Built when its inputs have changed. Skips where images can't be built; raises `BuildError`.
    """
    home = cache("images")
    folder = home / f"light-{inputs_key()}"
    facts = folder / "facts.json"
    with locked(home):
        if not facts.exists():
            half = home / f"half-{os.getpid()}"
            half.mkdir()
            try:
                made = built(IMAGES["light"], half, tag=IMAGES["light"].tag)
                found = {"tag": made.tag, "config": made.config, "size": made.size}
                (half / facts.name).write_text(json.dumps(found), encoding="utf-8")
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        os.utime(folder)
        others = sorted(home.glob("light-*"), key=lambda path: path.stat().st_mtime)
        for old in others[:-KEPT]:
            shutil.rmtree(old)
    return Built(root=folder / "root", **json.loads(facts.read_text(encoding="utf-8")))


def light_image_root() -> Path:
    """Return the root folder of `light_image`: operator and tracker pods run from it."""
    return light_image().root
