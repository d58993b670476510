"""Connections: SQLite as a file that several processes share, PostgreSQL as it comes."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from foretune.errors import HistoryUnavailableError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

BUSY_TIMEOUT_S: Final = 30.0
"""Seconds a writer waits for another process's transaction on SQLite; each takes milliseconds."""

POOL_SIZE: Final = 8
"""Connections to PostgreSQL that one process keeps; as many again for a burst."""

CONNECT_S: Final = 5
"""Seconds to connect to PostgreSQL."""

MIGRATION_LOCK: Final = 0x466F7265
"""Key of PostgreSQL's advisory lock around migrations."""

_alembic: Final = threading.Lock()
"""Alembic's environment is one a process: histories opened by several threads take turns."""


class Database:
    """An engine, and the transactions of a history on it. Safe for threads."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Take a SQLAlchemy URL or the path of a SQLite file; connects when first used.

        Raises `InvalidInputError` for a URL of something else, `NotFoundError` when a file that shall
        only be read is not there, `HistoryUnavailableError` when its folder can't be made.
        """
        parsed = _parsed(url)
        self.dialect = parsed.get_backend_name()
        self._read_only = read_only
        self._verified = False
        # One writer at a time: threads that wait here do not poll the file's lock.
        self._turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if self.dialect == "sqlite":
            self._turn = threading.Lock()
            self._engine = _sqlite(parsed, read_only=read_only)
        else:
            self._engine = create_engine(
                parsed,
                pool_pre_ping=True,
                pool_size=POOL_SIZE,
                max_overflow=POOL_SIZE,
                pool_timeout=BUSY_TIMEOUT_S,
                connect_args={"connect_timeout": CONNECT_S},
            )

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that may write."""
        with translated(), self._turn, self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database, beside any writer."""
        options: dict[str, Any] = (
            {"foretune_read": True}
            if self.dialect == "sqlite"
            else {"isolation_level": "REPEATABLE READ"}
        )
        with translated(), self._engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin():
                if self._read_only and not self._verified:
                    self._verify(connection)
                yield connection

    def migrate(self) -> None:
        """Bring the schema up to date; processes that start at once take turns.

        Raises `HistoryUnavailableError` for a database that a newer version has migrated. Opened for
        reading only, it is not changed: one that is older is refused too.
        """
        if self._read_only:
            with self.reading():
                return
        config, script = _scripts()
        with _alembic, self.writing() as connection:
            if self.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if _revision(connection, script) != script.get_current_head():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

    def _verify(self, connection: Connection) -> None:
        _, script = _scripts()
        current, head = _revision(connection, script), script.get_current_head()
        if current != head:
            raise HistoryUnavailableError(
                f"the history has schema {current or 'none'}, this version of Foretune needs {head}: "
                "start a job or the tracker with it once, which migrates it"
            )
        self._verified = True


class Stored:
    """What reads and writes one history's database; safe for threads and processes."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Take a SQLAlchemy URL or the path of a SQLite file; connects when first used."""
        self._database = Database(url, read_only=read_only)
        self._dialect = postgresql if self._database.dialect == "postgresql" else sqlite

    def migrate(self) -> None:
        """Bring the schema to the version of this code."""
        self._database.migrate()

    def close(self) -> None:
        """Release connections."""
        self._database.close()


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the database or its driver reports as an error of ours.

    `InvalidInputError` when it refuses a value for good, else `HistoryUnavailableError`.
    """
    try:
        yield
    except DataError as error:
        raise InvalidInputError(f"the history's database refuses a value: {error.orig}") from error
    except DBAPIError as error:
        first = str(error.orig).partition("\n")[0]
        raise HistoryUnavailableError(f"the history's database: {first}") from error
    except (PoolTimeoutError, sqlite3.Error) as error:
        raise HistoryUnavailableError(f"the history's database: {error}") from error


def _parsed(url: str) -> URL:
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidInputError(f"not a database URL: {error}") from None
    shown = parsed.render_as_string(hide_password=True)
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.get_backend_name() != "sqlite":
        raise InvalidInputError(f"{shown}: only sqlite:///FILE and postgresql+psycopg:// are known")
    if parsed.database in {None, "", ":memory:"}:
        raise InvalidInputError(f"{shown}: a history needs a file")
    return parsed


def _sqlite(url: URL, *, read_only: bool) -> Engine:
    assert url.database is not None
    path = Path(url.database)
    if read_only and not path.exists():
        raise NotFoundError(f"there is no history at {path}")
    if not read_only:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistoryUnavailableError(f"the history's folder: {error}") from error
    # Connections are cheap and many threads may wait in one: the pool must not be what they wait for.
    engine = create_engine(
        url, pool_size=POOL_SIZE, max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_S}
    )

    def on_connect(connection: Any, _record: object) -> None:
        try:
            prepare(connection)
        except sqlite3.Error:
            connection.close()  # the pool forgets a connection that it did not get ready
            raise

    def prepare(connection: Any) -> None:
        # The driver's own transactions begin DEFERRED: two readers that both turn writer deadlock.
        connection.isolation_level = None
        cursor = connection.cursor()
        if not read_only:
            _use_wal(cursor)
            # A proposal that was answered must outlive a power cut, or its trial has no row.
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
        cursor.close()

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _use_wal(cursor: Any) -> None:
    """Switch the file to WAL, which needs it alone and does not wait for that by itself."""
    limit = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.01)
        else:
            return


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql("BEGIN" if options.get("foretune_read") else "BEGIN IMMEDIATE")


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config, ScriptDirectory.from_config(config)


def _revision(connection: Connection, script: ScriptDirectory) -> str | None:
    """Return the database's revision, one that this code knows, or None for an empty database."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {r.revision for r in script.walk_revisions()}:
        raise HistoryUnavailableError(
            f"the history was migrated to {current} by a newer version of Foretune; "
            "upgrade Foretune, or use another history"
        )
    return current
