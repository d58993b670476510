"""The tracking server: owns the history, proposes exactly once, takes reports, answers continue or stop."""

from foretune.services.tracker.catalogue import Sharing
from foretune.services.tracker.service import Reply, TrackerService

__all__ = ["Reply", "Sharing", "TrackerService"]
