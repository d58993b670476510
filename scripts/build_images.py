"""Build the images: with Docker where a daemon answers, else with buildah (root, Debian packages).

    python -m scripts.build_images [light|suggestion|trainer|trainer-gpu|trainer-gpu-compile]...

The first three by default. Without Docker there is no registry to pull from either: the images are then built on a stand-in for
their base, made by scripts/image_base.sh and kept in the cache. That proves that a Dockerfile builds
and its program starts; nothing built so is to be published, and all of it has the label `STANDIN`.

TORCH=pypi takes torch from PyPI (with CUDA, 5 GB) instead of PyTorch's index of CPU wheels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from scripts.cache import cache, locked
from scripts.tools import Missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parent.parent

NAME: Final = "python:3.11-slim-bookworm"
"""The images' base. The Dockerfiles pin its digest, which a stand-in can't have."""

BASE: Final = f"docker.io/library/{NAME}"
"""What `NAME` means."""

BASE_SCRIPT: Final = ROOT / "scripts" / "image_base.sh"

STANDIN: Final = "io.foretune.standin"
"""Label of all that was built on the stand-in."""

CA: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian keeps the certificates that pip trusts during a build."""

MANY: Final = 150
"""Images, layers included, from which on the store of buildah is emptied."""


@dataclass(frozen=True)
class Image:
    """One of our images."""

    name: str
    repository: str
    dockerfile: Path
    target: str | None = None
    suffix: str = ""
    """Of the tag."""

    @property
    def tag(self) -> str:
        """Return its full name for the version of the working tree."""
        text = (ROOT / "operator" / "foretune" / "__init__.py").read_text(encoding="utf-8")
        found = re.search(r'__version__ = "(.+)"', text)
        assert found
        return f"{self.repository}:{found[1]}{self.suffix}"


IMAGES: Final = {
    image.name: image
    for image in (
        Image("light", "ghcr.io/foretune/foretune", ROOT / "Dockerfile", "light"),
        Image("suggestion", "ghcr.io/foretune/suggestion", ROOT / "Dockerfile", "suggestion"),
        Image("trainer", "ghcr.io/foretune/trainer", ROOT / "trainer_image" / "Dockerfile", "cpu"),
    )
}

VARIANTS: Final = {
    f"trainer-{target}": Image(
        f"trainer-{target}",
        IMAGES["trainer"].repository,
        IMAGES["trainer"].dockerfile,
        target,
        f"-{target}",
    )
    for target in ("gpu", "gpu-compile")
}
"""Further targets of the trainer's Dockerfile; gigabytes, so only by name."""


class BuildError(Exception):
    """A build failed; the message is the end of its output."""


class Builder(Protocol):
    """What can be done with images, by whichever tool is here."""

    def build(self, image: Image, *, tag: str, dockerfile: Path | None = None) -> None:
        """Build an image (from another Dockerfile, if given); raises `BuildError`."""

    def config(self, tag: str) -> dict[str, Any]:
        """Return the image's configuration in Docker's spelling (`User`, `Entrypoint`, ...)."""

    def size(self, tag: str) -> int:
        """Return the bytes of the image's file system."""

    def unpack(self, tag: str, folder: Path) -> None:
        """Write the image's file system into an empty folder."""


def arguments() -> dict[str, str]:
    """Return the build arguments that the environment asks for."""
    source = os.environ.get("TORCH") or "cpu"
    if source not in ("cpu", "pypi"):
        raise BuildError(f"TORCH={source}: must be pypi or cpu")
    return {"TORCH_INDEX": ""} if source == "pypi" else {}


def flags(image: Image, dockerfile: Path | None, tag: str) -> list[str]:
    """Return the part of the command line that both tools share, the context last."""
    chosen = arguments() if image.name in IMAGES else {}
    given = [f for k, v in chosen.items() for f in ("--build-arg", f"{k}={v}")]
    target = ["--target", image.target] if image.target else []
    return [*given, *target, "-f", str(dockerfile or image.dockerfile), "-t", tag, str(ROOT)]


def call(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Return what a command prints; raises `BuildError` with the end of its output."""
    done = subprocess.run(
        list(command),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise BuildError(f"{' '.join(command)}: exit code {done.returncode}\n{tail}")
    return done.stdout


@dataclass(frozen=True)
class Docker:
    """Docker, with a daemon that answers."""

    def build(self, image: Image, *, tag: str, dockerfile: Path | None = None) -> None:
        """See `Builder`."""
        call(["docker", "build", *flags(image, dockerfile, tag)], env={"DOCKER_BUILDKIT": "1"})

    def config(self, tag: str) -> dict[str, Any]:
        """See `Builder`."""
        (found,) = json.loads(call(["docker", "image", "inspect", tag]))
        return dict(found["Config"])

    def size(self, tag: str) -> int:
        """See `Builder`."""
        (found,) = json.loads(call(["docker", "image", "inspect", tag]))
        return int(found["Size"])

    def unpack(self, tag: str, folder: Path) -> None:
        """See `Builder`."""
        container = call(["docker", "create", tag]).strip()
        try:
            archive = folder.with_name(folder.name + ".tar")
            call(["docker", "export", "-o", str(archive), container])
            call(["tar", "-x", "--numeric-owner", "-C", str(folder), "-f", str(archive)])
            archive.unlink()
        finally:
            call(["docker", "rm", container])


@dataclass(frozen=True)
class Buildah:
    """buildah in chroot isolation, as root, on the stand-in base."""

    folder: Path
    """Of the store; other stores of this machine are left alone."""
    base: list[str] = field(init=False)

    def __post_init__(self) -> None:
        kind = call(["stat", "-f", "-c", "%T", str(self.folder)]).strip()
        driver = "vfs" if kind == "overlayfs" else "overlay"
        where = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        object.__setattr__(self, "base", ["buildah", *where, "--storage-driver", driver])

    def __call__(self, *args: str) -> str:
        """Return what `buildah args` prints."""
        return call([*self.base, *args])

    def prepare(self) -> None:
        """Make the stand-in base, once; raises `BuildError`. Empties a store that has grown."""
        with locked(self.folder):
            if len(self("images", "-a", "-q").split()) > MANY:
                self("rmi", "--prune", "--force")
            if self("images", "-q", "--filter", f"reference={BASE}").strip():
                return
            print("making a stand-in for the images' base, about a minute", file=sys.stderr)
            archive = self.folder / "base.tar"
            call([str(BASE_SCRIPT), str(archive)])
            container = self("from", "scratch").strip()
            self("add", "-q", container, str(archive), "/")
            path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            label = f"{STANDIN}=1"
            self("config", "--env", path, "--cmd", "python3", "--label", label, container)
            self("commit", "-q", "--rm", "--format", "docker", container, BASE)
            archive.unlink()

    def build(self, image: Image, *, tag: str, dockerfile: Path | None = None) -> None:
        """See `Builder`."""
        self.prepare()
        print(f"building {tag} on a stand-in base", file=sys.stderr)
        trusted = Path(os.environ.get("SSL_CERT_FILE") or CA)
        mount = ["--volume", f"{trusted}:{CA}:ro"] if trusted.exists() else []
        how = ["--isolation", "chroot", "--pull=never", "--format", "docker", "--layers"]
        base = ["--build-arg", f"PYTHON_IMAGE={NAME}"]
        self("build", *how, *mount, *base, *flags(image, dockerfile, tag))

    def config(self, tag: str) -> dict[str, Any]:
        """See `Builder`."""
        return dict(json.loads(self("inspect", "--type", "image", tag))["Docker"]["config"])

    def size(self, tag: str) -> int:
        """See `Builder`."""
        container = self("from", "--pull=never", tag).strip()
        try:
            return int(call(["du", "-sb", self("mount", container).strip()]).split()[0])
        finally:
            self("rm", container)

    def unpack(self, tag: str, folder: Path) -> None:
        """See `Builder`."""
        container = self("from", "--pull=never", tag).strip()
        try:
            call(["cp", "-a", f"{self('mount', container).strip()}/.", str(folder)])
        finally:
            self("rm", container)


def builder() -> Builder | Missing:
    """Return the tool that builds images here, or why there is none."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "info"], capture_output=True, check=False)
        if asked.returncode == 0:
            return Docker()
    if os.geteuid() != 0:
        return Missing("images: no Docker daemon answers, and buildah needs root")
    for program in ("buildah", "debootstrap"):
        if not shutil.which(program):
            return Missing(f"images: no Docker daemon answers, and {program} is not installed")
    digest = hashlib.sha256(BASE_SCRIPT.read_bytes()).hexdigest()[:16]
    return Buildah(cache("images", f"buildah-{digest}"))


def main() -> int:
    """Build the images named on the command line."""
    names = sys.argv[1:] or list(IMAGES)
    known = {**IMAGES, **VARIANTS}
    if unknown := sorted(set(names) - set(known)):
        print(f"no image {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    tool = builder()
    if isinstance(tool, Missing):
        print(tool.reason, file=sys.stderr)
        return 1
    for name in names:
        image = known[name]
        try:
            tool.build(image, tag=image.tag)
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{image.tag}  {tool.size(image.tag) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
