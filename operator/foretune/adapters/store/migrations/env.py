"""Alembic's environment: runs on the connection that `engine.migrate` hands over."""

from alembic import context

from foretune.adapters.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
