"""The proposal of last resort: scrambled Sobol without torch or numpy.

The tracker uses it when the suggestion service is down or late, so that a job never stalls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from foretune.ports import SuggestionAnswer
from foretune.search.designer import known_keys
from foretune.search.sampling import default_or, sobol_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foretune.domain.space import Space
    from foretune.domain.trial import Trial

FALLBACK_PROPOSER: Final = "sobol/fallback"
"""Proposer of a configuration that stood in for a designer that could not answer."""


def sobol_proposal(
    space: Space,
    trials: Sequence[Trial],
    seed: int,
    *,
    proposer: str = FALLBACK_PROPOSER,
    reason: str = "",
) -> SuggestionAnswer:
    """Return the first scrambled Sobol configuration that none of `trials` has, whatever their state.

    `reason` says why the designer did not answer; it is kept in the audit. The space's default
    configuration goes first. Raises `SpaceExhaustedError` when every configuration was proposed.
    """
    stream = sobol_points(space, seed)
    params, _ = default_or(space, stream, known_keys(space, trials), seed=seed)
    return SuggestionAnswer(
        params=params, proposer=proposer, detail={"reason": reason} if reason else {}
    )
