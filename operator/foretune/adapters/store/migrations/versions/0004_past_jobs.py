"""Who may learn from a job, and indexes with which past jobs are found whatever their number."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Jobs of before are published within their namespace, as by default."""
    column = sa.Column("published", sa.String(16), server_default="namespace", nullable=False)
    op.add_column("jobs", column)
    op.create_index("ix_jobs_namespace_created_at", "jobs", ["namespace", "created_at"])
    op.create_index("ix_jobs_published_created_at", "jobs", ["published", "created_at"])
    op.create_index("ix_trials_job_uid_ended_at", "trials", ["job_uid", "ended_at"])
