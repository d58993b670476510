"""Migrations: they make what the code expects, and they are in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from foretune.adapters import store
from foretune.adapters.store import SqlHistory
from foretune.adapters.store.schema import metadata

ROOT = Path(__file__).parents[2]


def test_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    """Nothing is left to do after migrating: tables, columns, types, keys and indexes are the code's."""
    url = f"sqlite:///{tmp_path / 'history.db'}"
    history = SqlHistory(url)
    history.migrate()
    history.migrate()
    history.close()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


@pytest.mark.slow
def test_the_wheel_carries_every_migration(tmp_path: Path) -> None:
    """An installed package can migrate: the wheel has each revision of the checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folder = Path(store.__file__).parent / "migrations"
    wanted = {
        f"foretune/adapters/store/migrations/{path.relative_to(folder)}"
        for path in folder.rglob("*.py")
    }
    assert len(wanted) >= 4
    assert wanted <= names
