"""Connections: SQLite as a database that several processes share, PostgreSQL as it comes."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from foretune.errors import HistoryUnavailableError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

BUSY_TIMEOUT_MS: Final = 30_000
"""Milliseconds a writer waits for another process's transaction on SQLite."""

MIGRATION_LOCK: Final = 0x466F7265
"""Key of PostgreSQL's advisory lock around migrations."""


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """Return an engine for a SQLAlchemy URL or a path of a SQLite file.

    Raises `InvalidInputError` for a URL that is neither, `NotFoundError` when a file that shall only be
    read is not there.
    """
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError as error:
        raise InvalidInputError(f"{url!r} is no database URL: {error}") from None
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True, pool_size=8)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InvalidInputError(f"{url!r}: only sqlite:///FILE and postgresql+psycopg:// are known")
    path = Path(parsed.database)
    if read_only and not path.exists():
        raise NotFoundError(f"there is no history at {path}")
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:
    # The driver's own transactions would begin DEFERRED: two readers that both turn writer deadlock.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql("BEGIN" if options.get("foretune_read") else "BEGIN IMMEDIATE")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that may write; errors of the database are translated."""
    with translated(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that only reads, beside any writer."""
    with translated(), engine.connect() as plain:
        connection = plain.execution_options(foretune_read=True)
        with connection.begin():
            yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Raise `HistoryUnavailableError` for whatever the database or its driver reports."""
    try:
        yield
    except DBAPIError as error:
        raise HistoryUnavailableError(f"the history's database: {error.orig}") from error


def migrate(engine: Engine) -> None:
    """Bring the schema up to date; two processes that start at once take turns.

    Raises `HistoryUnavailableError` for a database that a newer version has migrated.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        current = MigrationContext.configure(connection).get_current_revision()
        known = {revision.revision for revision in script.walk_revisions()}
        if current is not None and current not in known:
            raise HistoryUnavailableError(
                f"the history was migrated to {current} by a newer version of Foretune; "
                "upgrade Foretune, or use another history"
            )
        if current != script.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
