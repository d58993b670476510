"""The tables. Alembic's migrations make them; a test compares the two.

Times are Unix seconds (UTC) as floats. JSON columns hold text that Python wrote with `allow_nan=False`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tasks: Final = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", String(253), nullable=False),
    Column("signature", String(64), nullable=False),
    Column("scope", String(16), nullable=False, server_default="namespace"),
    Column("metric", String(128), nullable=False),
    Column("goal", String(8), nullable=False),
    Column("space", JSON, nullable=False),
    Column("context", JSON, nullable=False),
    Column("quarantined", Text),
    UniqueConstraint("namespace", "signature"),
)
"""What was tuned, whoever tuned it: jobs of one signature (objective, space, context) share a row."""

jobs: Final = Table(
    "jobs",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("namespace", String(253), nullable=False),
    Column("name", String(253), nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("objective", JSON, nullable=False),
    Column("context", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("phase", String(16), nullable=False),
    Column("reason", String(64), nullable=False, server_default=""),
    Column("message", Text, nullable=False, server_default=""),
    Column("published", String(16), nullable=False, server_default="namespace"),
    Index(None, "namespace", "name"),
    Index(None, "namespace", "created_at"),
    Index(None, "published", "created_at"),
    Index(None, "task_id"),
)
"""`published` says who may learn from the job: `namespace`, `cluster` or `none`."""

proposals: Final = Table(
    "proposals",
    metadata,
    Column("job_uid", ForeignKey("jobs.uid"), primary_key=True),
    Column("trial_index", Integer, primary_key=True, autoincrement=False),
    Column("params", JSON, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("proposer", String(64), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)
"""(job uid, index) is the identity of a proposal: a retry gets the same configuration."""

trials: Final = Table(
    "trials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_uid", ForeignKey("jobs.uid"), nullable=False),
    Column("trial_index", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(32)),
    Column("message", Text, nullable=False, server_default=""),
    Column("counts_as_failure", Boolean, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("stop_requested", String(32)),
    Column("value", Float),
    Column("value_sd", Float, nullable=False, server_default="0"),
    Column("epochs", Float, nullable=False, server_default="0"),
    Column("reports", Integer, nullable=False, server_default="0"),
    Column("nonfinite", Boolean, nullable=False, server_default="0"),
    Column("metrics_seen", JSON, nullable=False, server_default="[]"),
    Column("source", String(32)),
    Column("cpu_s", Float),
    Column("resources", JSON, nullable=False, server_default="{}"),
    UniqueConstraint("job_uid", "trial_index"),
    Index(None, "job_uid", "ended_at"),
)
"""A trial and, from `value` on, what its reports add up to: kept with each report, so that reading a
job of a thousand trials reads no report. It stays as it is once the trial has ended."""

attempts: Final = Table(
    "attempts",
    metadata,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("pod_uid", String(64)),
    Column("created_at", Float),
    Column("bound_at", Float),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("exit_code", Integer),
    Column("reason", String(32)),
    Column("message", Text, nullable=False, server_default=""),
    Column("node", String(253)),
    Column("gpus", Integer, nullable=False, server_default="0"),
)

pods: Final = Table(
    "pods",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("trial_id", ForeignKey("trials.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("pod_uid", String(64), nullable=False),
    UniqueConstraint("trial_id", "attempt", "pod_uid"),
)
"""Every pod that ran a trial; ids rise, so that a pod is older or newer than another."""

reports: Final = Table(
    "reports",
    metadata,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("pod_uid", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("epoch", Float),
    Column("step", Integer),
    Column("metrics", JSON, nullable=False),
    Column("nonfinite", JSON, nullable=False),
    Column("resources", JSON, nullable=False),
    Column("data_fingerprint", String(80)),
    Column("source", String(32), nullable=False),
    Column("sent_at", Float),
    Column("received_at", Float, nullable=False),
)
"""(trial, attempt, pod uid, seq) is the identity of a report: sent twice, stored once."""

costs: Final = Table(
    "costs",
    metadata,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("gpu_held_s", Float, nullable=False),
    Column("cpu_s", Float),
    Column("booked_at", Float, nullable=False),
)
"""The cost ledger: one row an attempt, booked when it ends, never changed."""

imports: Final = Table(
    "imports",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("source", Text, nullable=False),
    Column("format", String(16), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("at", Float, nullable=False),
)
"""What was imported: a file, as read with one mapping into one namespace (`digest` is of all three)."""

set_aside: Final = Table(
    "set_aside",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("import_id", ForeignKey("imports.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("task", String(253), nullable=False),
    Column("line", Integer, nullable=False),
    Column("row", JSON, nullable=False),
    Column("reason", Text, nullable=False),
    UniqueConstraint("import_id", "digest"),
)
"""Rows of an import that are no trials, as they stood there, each with the reason."""
