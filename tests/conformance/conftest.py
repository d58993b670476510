"""Databases for the suite of `ports.History`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.postgres import NoPostgresError, Server, running_postgres

from foretune.adapters.store import SqlHistory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this session."""
    try:
        with running_postgres() as server:
            yield server
    except NoPostgresError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def history(url: str) -> Iterator[SqlHistory]:
    """An empty history, its schema up to date."""
    opened = SqlHistory(url)
    opened.migrate()
    yield opened
    opened.close()
