"""Names of attempts. The name is the lock: whoever creates it first owns the attempt."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foretune.domain.job import Job

JOB_PART: Final = 40
"""Characters of the job's name that stay; with uid, index and attempt a Job's name fits in 63."""


def attempt_name(job: Job, index: int, attempt: int) -> str:
    """Return `<job>-<uid5>-t0007-a0`: a DNS label, the same for every leader and every restart."""
    stem = job.key.name[:JOB_PART].replace(".", "-").rstrip("-")
    return f"{stem}-{uid_part(job.uid)}-t{index:04d}-a{attempt}"


def uid_part(uid: str) -> str:
    """Return five characters of a uid, so that a job made anew under an old name has new trials."""
    return hashlib.sha256(uid.encode()).hexdigest()[:5]


def config_hash(params: Mapping[str, object]) -> str:
    """Return 16 hex digits for a configuration; equal parameters give equal hashes in any order."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
