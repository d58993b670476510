"""The history's database: SQLite by default, PostgreSQL when outgrown, one schema, one suite of tests."""

from foretune.adapters.store.history import SqlHistory

__all__ = ["SqlHistory"]
