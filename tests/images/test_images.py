"""Our images, built and started as a restricted pod would start them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from scripts.build_images import IMAGES, NAME, ROOT, VARIANTS, BuildError
from scripts.requirements import requirements
from tests.support.images import Built, built, inputs_key, light_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HADOLINT: Final = Path(sys.executable).with_name("hadolint")

UNDER_TEST: Final = tuple(IMAGES) if os.environ.get("FORETUNE_IMAGES") == "all" else ("light",)
"""The images with torch take gigabytes: `make images` builds them."""

PYPI: Final = os.environ.get("TORCH") == "pypi"
"""Whether torch comes with CUDA, which is some 4 GB."""

CEILING_MB: Final = {
    "light": 420,
    "suggestion": 8000 if PYPI else 3000,
    "trainer": 6500 if PYPI else 2500,
}
"""Of the file system: the budget that docs/operations/install.md writes down."""

COMMANDS: Final = {
    "light": (["--version"], ["operator", "--help"], ["tracker", "--help"]),
    "suggestion": (["--version"], ["suggestion", "--help"]),
    "trainer": (["--help"],),
}

IMPORTS: Final = {
    "light": "kopf kubernetes httpx starlette uvicorn sqlalchemy sqlite3 alembic psycopg prometheus_client pydantic yaml"
    " foretune.app.operator foretune.app.tracker",
    "suggestion": "torch gpytorch botorch scipy starlette uvicorn prometheus_client foretune.app.suggestion",
    "trainer": "torch numpy pyarrow PIL datasets transformers safetensors foretune_trainer foretune_report",
}
"""What each image has to import, those included that are imported only when they are needed."""

IMPORT_ALL: Final = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"import {name}: {error}")
"""

STATE: Final = """
import json, os
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
open("/tmp/written", "w").close()
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "rights": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")],
    "no_new_privs": status["NoNewPrivs"],
    "root": refused("/opt/written"),
    "interfaces": sorted(os.listdir("/sys/class/net")) if os.path.exists("/sys/class/net") else [],
}))
"""

VERSIONS: Final = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"]: d.version for d in m.distributions()}))
"""


def problems(image: Built, name: str) -> list[str]:
    """Return all that is wrong with how an image is configured and how its program starts."""
    found = []
    if image.config.get("User") != "65532:65532":
        found.append(f"User is {image.config.get('User')!r}, not '65532:65532'")
    entry = image.config.get("Entrypoint") or []
    if not entry or entry[0].endswith("/sh"):
        found.append(f"Entrypoint is {entry}: arguments would be lost")
        return found
    for args in COMMANDS[name]:
        done = image.start(*args)
        if done.returncode:
            found.append(f"{entry + args}: {done.returncode}: {done.stderr[-500:]}")
        elif args == ["--version"] and IMAGES[name].tag.rpartition(":")[2] not in done.stdout:
            found.append(f"{entry + args}: said {done.stdout!r}")
    done = image.run("python3", "-c", IMPORT_ALL, *IMPORTS[name].split())
    found += done.stdout.splitlines() if done.returncode == 0 else [done.stderr[-500:]]
    return found


@pytest.fixture(scope="module", params=UNDER_TEST)
def name(request: pytest.FixtureRequest) -> str:
    """The image under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def image(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The image under test, built from the working tree."""
    if name == "light":
        yield light_image()
        return
    folder = tmp_path_factory.mktemp(f"image-{name}")
    made = built(IMAGES[name], folder, tag=IMAGES[name].tag)
    yield made
    subprocess.run(["rm", "-rf", str(made.root)], check=True)


@pytest.mark.images
@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestImage:
    """What holds for each image."""

    def test_control(self, image: Built, name: str) -> None:
        """The image has a numeric user, and its programs and their imports work on a read-only root."""
        assert problems(image, name) == []

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("User", "", "User is '', not '65532:65532'"),
            ("User", "app", "User is 'app'"),
            ("Entrypoint", ["/bin/sh", "-c", "foretune"], "arguments would be lost"),
            ("Entrypoint", ["foretunes"], "foretunes: No such file or directory"),
        ],
    )
    def test_wrong_configuration_is_found(
        self, image: Built, name: str, key: str, value: object, reason: str
    ) -> None:
        """The control finds a user that is missing or not numeric, and a wrong entry point."""
        wrong = dataclasses.replace(image, config={**image.config, key: value})
        assert [text for text in problems(wrong, name) if reason in text]

    def test_restriction(self, image: Built) -> None:
        """The programs of these tests really run without rights, and can write nothing but /tmp."""
        done = image.run("python3", "-c", STATE)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "ids": [65532, 65532, []],
            "rights": [0, 0, 0],
            "no_new_privs": "1",
            "root": "Read-only file system",
            "interfaces": [],
        }

    def test_environment(self, image: Built) -> None:
        """Nothing of the build is left in the image's environment."""
        names = {pair.partition("=")[0] for pair in image.config["Env"]}
        assert not [n for n in names if n.startswith(("PIP_", "SSL_", "TORCH"))]
        assert not re.search(r"PIP_|SSL_CERT", (image.root / "etc/environment").read_text("utf-8"))

    def test_no_installer(self, image: Built) -> None:
        """Nothing can be installed in a running container: there is no pip."""
        done = image.run("python3", "-m", "pip", "--version")
        assert "No module named pip" in done.stderr
        assert not list(image.root.glob("usr/local/bin/pip*"))

    def test_pins(self, image: Built) -> None:
        """Every distribution in the image has the version of constraints.txt."""
        pins = dict(
            line.split("==")
            for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
            if line and line[0] != "#"
        )
        wanted = {_plain(key): version for key, version in pins.items()}
        done = image.run("python3", "-c", VERSIONS)
        found = json.loads(done.stdout)
        assert len(found) > 10
        other = {
            key: version
            for key, version in found.items()
            if _plain(key) != "foretune" and wanted.get(_plain(key)) != version.partition("+")[0]
        }
        assert other == {}

    def test_size(self, image: Built, name: str) -> None:
        """The image stays below its ceiling."""
        assert image.size < CEILING_MB[name] * 1e6

    def test_light_has_no_torch(self, image: Built, name: str) -> None:
        """Torch is in the images that need it, and in no other."""
        look = "import importlib.util as u; print(u.find_spec('torch') is not None)"
        done = image.run("python3", "-c", look)
        assert done.stdout.strip() == str(name != "light"), done.stderr


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


FAULTS: Final = {
    "environment elsewhere": (
        "--from=light-environment /opt/foretune /opt/foretune",
        "--from=light-environment /opt/foretune /opt/elsewhere",
        "No such file or directory",
    ),
    "extra forgotten": (
        "install --require-hashes -r light.txt",
        "install -c constraints.txt kopf kubernetes prometheus-client pydantic PyYAML httpx",
        "No module named 'sqlalchemy'",
    ),
}
"""Name: what of the Dockerfile is replaced, by what, and which problem must be found."""


def spoiled(folder: Path, old: str, new: str) -> Path:
    """Return a copy of the Dockerfile with one fault."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert text.count(old) == 1
    path = folder / "Dockerfile"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.images
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, tmp_path: Path) -> None:
    """A fault planted in the Dockerfile of the light image is found, and named."""
    old, new, reason = FAULTS[fault]
    image = built(
        IMAGES["light"],
        tmp_path,
        tag="localhost/foretune-fault:test",
        dockerfile=spoiled(tmp_path, old, new),
    )
    try:
        found = problems(image, "light")
        assert [text for text in found if reason in text], found
    finally:
        subprocess.run(["rm", "-rf", str(image.root)], check=True)


@pytest.mark.images
@pytest.mark.slow
def test_missing_source_fails_the_build(tmp_path: Path) -> None:
    """A build that copies what is not there fails, and says what."""
    broken = spoiled(tmp_path, "COPY operator operator", "COPY operators operator")
    with pytest.raises(BuildError, match="operators"):
        built(IMAGES["light"], tmp_path, tag="localhost/foretune-fault:test", dockerfile=broken)


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint(name: str) -> None:
    """Hadolint has nothing to say about the Dockerfiles."""
    done = subprocess.run(
        [str(HADOLINT), str(IMAGES[name].dockerfile)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_portable_dockerfile(name: str) -> None:
    """The Dockerfiles use no instruction that buildah 1.28 refuses."""
    text = IMAGES[name].dockerfile.read_text("utf-8")
    pin = re.match(rf"(#.*\n)*ARG PYTHON_IMAGE={re.escape(NAME)}@(sha256:[0-9a-f]{{64}})\n", text)
    assert pin
    assert pin[2] in (ROOT / "Dockerfile").read_text("utf-8")
    assert "<<" not in text
    assert not re.search(r"--(link|exclude|parents|checksum|network=none|start-interval)", text)


def unresolved(text: str, targets: Iterable[str]) -> list[str]:
    """Return the stages that a Dockerfile names before it has made them, and the targets it never makes."""
    made: list[str] = []
    found = []
    for line in text.splitlines():
        stage = re.match(r"FROM (\S+) AS (\S+)$", line)
        for name in re.findall(r"COPY --from=(\S+)", line) + ([stage[1]] if stage else []):
            if name not in (*made, "${PYTHON_IMAGE}"):
                found.append(name)
        if stage:
            made.append(stage[2])
    return found + [name for name in targets if name not in made]


@pytest.mark.parametrize("file", sorted({image.dockerfile for image in IMAGES.values()}))
def test_targets(file: Path) -> None:
    """Every target is there, what each is made of is made before it, and one that is not is found."""
    text = file.read_text("utf-8")
    all_images = (*IMAGES.values(), *VARIANTS.values())
    targets = [str(image.target) for image in all_images if image.dockerfile == file]
    assert unresolved(text, targets) == []
    spoilt = text.replace("FROM build AS wheel", "FROM builder AS wheels")
    assert unresolved(spoilt, [*targets, "npu"])[0] == "builder"
    assert {"wheel", "npu"} < {*unresolved(spoilt, [*targets, "npu"])}


def test_trainer_targets() -> None:
    """The trainer's image has a form for CPUs, one for GPUs, and one with a compiler, as no root in any."""
    text = IMAGES["trainer"].dockerfile.read_text("utf-8")
    stages = dict(re.findall(r"(?ms)^FROM \S+ AS (\S+)$(.*?)(?=^FROM|\Z)", text))
    assert {"cpu", "gpu", "gpu-compile"} <= set(stages)
    assert list(stages)[-1] == "cpu"  # without --target
    assert "TORCH_INDEX" not in stages["environment-gpu"]
    assert re.search(r"install .*\bgcc libc6-dev\b", stages["gpu-compile"])
    for name in ("run", "gpu-compile"):
        assert re.findall(r"(?m)^USER (.+)$", stages[name])[-1] == "65532:65532"
    assert {image.tag.rpartition(":")[2] for image in VARIANTS.values()} == {
        f"{IMAGES['trainer'].tag.rpartition(':')[2]}-{target}" for target in ("gpu", "gpu-compile")
    }


def test_requirements() -> None:
    """The dependencies of an image are the project's and those of its extras, each once."""
    project = {
        "dependencies": ["a>=1"],
        "optional-dependencies": {"x": ["b"], "y": ["b", "c==2"], "z": ["d"]},
    }
    assert requirements(project, ["x", "y"]) == ["a>=1", "b", "c==2"]
    with pytest.raises(KeyError):
        requirements(project, ["w"])


def test_key_follows_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An image is built anew when a source file changes, and only then."""
    monkeypatch.setattr("tests.support.images.ROOT", tmp_path)
    monkeypatch.setattr("tests.support.images.INPUTS", ("Dockerfile", "operator"))
    (tmp_path / "Dockerfile").write_text("FROM x")
    (tmp_path / "operator" / "__pycache__").mkdir(parents=True)
    (tmp_path / "operator" / "a.py").write_text("1")
    before = inputs_key()
    (tmp_path / "operator" / "__pycache__" / "a.pyc").write_text("2")
    assert inputs_key() == before
    (tmp_path / "operator" / "a.py").write_text("2")
    assert inputs_key() != before
