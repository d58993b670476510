"""Trials: the standard deviation of a value that is a prediction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Every value of before was observed."""
    op.add_column("trials", sa.Column("value_sd", sa.Float(), server_default="0", nullable=False))
