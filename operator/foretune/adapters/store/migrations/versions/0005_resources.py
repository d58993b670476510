"""What a trial used, added up: seconds, energy, memory, examples."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Of trials of before it is not known; their reports still have it."""
    op.add_column("trials", sa.Column("resources", sa.JSON(), server_default="{}", nullable=False))
