"""The tracking server as a process of its own: `python -m tests.support.tracker_process DATABASE TOKEN`.

Everything is the real one but who checks tokens: outside a cluster nobody reviews them, so the operator
has TOKEN. Address and suggestion service come from the environment, as in a cluster.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from foretune.adapters.store import SqlHistory
from foretune.app.tracker import run_tracker
from foretune.services.tracker.auth import Identity, UnknownCallerError
from foretune.settings import TrackerSettings, from_environ


class OneToken:
    """Knows the operator by its token, and a pod by a token that is `pod:` and its uid."""

    def __init__(self, token: str) -> None:
        """Take the operator's token."""
        self._token = token

    def identify(self, token: str) -> Identity:
        """Return the caller."""
        if token == self._token:
            return Identity(username="operator", operator=True)
        kind, _, uid = token.partition(":")
        if kind != "pod":
            raise UnknownCallerError("unknown token")
        return Identity(username="pod", pod_uid=uid)

    def may_read(self, identity: Identity, namespace: str) -> bool:
        """Whether the caller may read."""
        return identity.operator


if __name__ == "__main__":
    database, operator_token = sys.argv[1:]
    settings = replace(from_environ(TrackerSettings), database_url=database)
    run_tracker(
        settings, history=SqlHistory(settings.database_url), authenticator=OneToken(operator_token)
    )
